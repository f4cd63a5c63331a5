#!/usr/bin/env bash
# Builds the named programs for six targets into dist/OS_ARCH/, one cache for all, and prints their sizes.
set -euo pipefail
cd "$(dirname "$0")/.."
targets="linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64"

printf '%-15s' target
printf ' %12s' "$@"
printf '\n'
for target in $targets; do
	os=${target%/*}
	arch=${target#*/}
	suffix=
	[ "$os" = windows ] && suffix=.exe
	out=dist/${os}_$arch
	mkdir -p "$out"
	packages=()
	for program in "$@"; do packages+=("./cmd/$program"); done
	CGO_ENABLED=0 GOOS=$os GOARCH=$arch go build -trimpath -buildvcs=false -tags "${TAGS:-}" -ldflags "${LDFLAGS:-}" -o "$out/" "${packages[@]}"
	printf '%-15s' "$target"
	for program in "$@"; do
		printf ' %8s MiB' "$(wc -c <"$out/$program$suffix" | awk '{printf "%.1f", $1 / 1048576}')"
	done
	printf '\n'
done
