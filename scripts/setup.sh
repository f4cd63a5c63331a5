#!/bin/sh
# Installs the programs that the demo and the tests run and that this machine lacks.
#
#   scripts/setup.sh demo   ffmpeg and Python: what nodes and hub call
#   scripts/setup.sh all    these, and what the tests and benchmarks compare with or need to build
#
# It asks nothing. Where it cannot install, it says exactly what to install and ends with 1.
set -eu

want=${1:-all}
case $want in
demo | all) ;;
*)
	echo "setup.sh: want 'demo' or 'all', not '$want'" >&2
	exit 2
	;;
esac

have() { command -v "$1" >/dev/null 2>&1; }

# Nodes run Apps with the system's own Python: one in a home folder is not visible in the sandbox.
have_python() { [ -x /usr/bin/python3 ] || [ -x /usr/local/bin/python3 ] || { [ "$(uname -s)" != Linux ] && have python3; }; }
have_cc() {
	have gcc || have clang || return 1
	[ "$(uname -s)" != Linux ] || [ -e /usr/include/stdlib.h ] || [ -e /usr/include/x86_64-linux-musl/stdlib.h ]
}

missing=
need() { missing="$missing $1"; }

if ! have ffmpeg || ! have ffprobe; then need ffmpeg; fi
have_python || need python3
if [ "$want" = all ]; then
	if [ "$(uname -s)" = Linux ]; then
		have bwrap || need bubblewrap
		# What the sandbox is tested with: an engine, and what images are made of.
		have podman || need podman
		have runc || [ -x /usr/sbin/runc ] || need runc
		have newuidmap || need uidmap
		have debootstrap || [ -x /usr/sbin/debootstrap ] || need debootstrap
		have systemd-analyze || need systemd # what it makes of the units
		[ -x /usr/bin/busybox ] || [ -x /bin/busybox ] || need busybox-static
	fi
	have_cc || need gcc
	have npm || need npm
	if [ "$(uname -s)" = Linux ] && [ "$(uname -m)" != aarch64 ] && ! have qemu-aarch64-static; then need qemu-user-static; fi
fi
[ -n "$missing" ] || exit 0

echo "Spare's $([ "$want" = demo ] && echo demo || echo tests) need$missing, which this machine lacks." >&2

as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif have sudo && sudo -n true 2>/dev/null; then
		sudo -n "$@"
	else
		echo "Installing needs root. Run this, then start again:" >&2
		echo "  sudo $*" >&2
		exit 1
	fi
}

case $(uname -s) in
Linux)
	# shellcheck disable=SC2086 # the lists are words on purpose
	if have apt-get; then
		packages=$(echo "$missing" | sed 's/gcc/gcc libc6-dev/')
		echo "Installing by apt-get:$packages" >&2
		as_root env DEBIAN_FRONTEND=noninteractive sh -c '
			apt-get update -qq || echo "apt-get update failed; trying with the lists that are there" >&2
			apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "$@" >&2' apt $packages
	elif have dnf; then
		echo "Install these and start again: sudo dnf install$missing" >&2
		exit 1
	elif have pacman; then
		echo "Install these and start again: sudo pacman -S$(echo "$missing" | sed 's/python3/python/')" >&2
		exit 1
	elif have apk; then
		echo "Install these and start again: apk add$(echo "$missing" | sed 's/gcc/gcc musl-dev/')" >&2
		exit 1
	else
		echo "Install these with your system's package manager and start again:$missing" >&2
		exit 1
	fi
	;;
Darwin)
	case $missing in *gcc*)
		echo "Install Apple's command line tools and start again: xcode-select --install" >&2
		exit 1
		;;
	esac
	if have brew; then
		# shellcheck disable=SC2086 # the list is words on purpose
		brew install $missing
	else
		echo "Install Homebrew (https://brew.sh), then: brew install$missing" >&2
		exit 1
	fi
	;;
*)
	echo "Install these and start again:$missing" >&2
	exit 1
	;;
esac
echo "Installed." >&2
