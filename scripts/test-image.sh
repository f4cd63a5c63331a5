#!/usr/bin/env bash
# Makes the root file system of a small Debian for tests of images, once, and prints the
# path of its archive:
#
#   scripts/test-image.sh python python3-minimal
#
# NAME says what the packages behind it make; another list needs another NAME. It is kept in
# SPARE_TEST_CACHE (default: spare-test in the user's cache folder) and made again only when
# it is not there. Needs debootstrap, root, and the distribution's package mirror
# (SPARE_DEBIAN_MIRROR names another).
set -euo pipefail

if [ $# -lt 2 ]; then
	echo "usage: test-image.sh NAME PACKAGE…" >&2
	exit 2
fi
name=$1
shift
cache=${SPARE_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/spare-test}
mkdir -p "$cache"
archive=$cache/$name.tar
packages=$(IFS=,; echo "$*")

exec 9>"$cache/$name.lock"
flock 9
if [ -f "$archive" ] && [ "$(cat "$archive.packages" 2>/dev/null)" = "$packages" ]; then
	echo "$archive"
	exit
fi
if [ "$(id -u)" -ne 0 ] || ! command -v debootstrap >/dev/null; then
	echo "test-image.sh: $archive is missing; run this as root, with debootstrap installed" >&2
	exit 1
fi
# shellcheck source=/dev/null
suite=$(. /etc/os-release && [ "$ID" = debian ] && echo "$VERSION_CODENAME" || echo stable)
work=$(mktemp -d "$cache/$name.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
# shellcheck disable=SC2086 # no mirror is no argument
debootstrap --variant=minbase --include="$packages" "$suite" "$work/root" ${SPARE_DEBIAN_MIRROR:-} >&2
rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/* "$work"/root/usr/share/{doc,man,locale}
tar --sort=name --numeric-owner -C "$work/root" -cf "$work/archive" .
chmod 0644 "$work/archive"
mv "$work/archive" "$archive"
echo "$packages" >"$archive.packages"
echo "$archive"
