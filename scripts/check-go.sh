#!/bin/sh
# Says clearly when Go is missing or too old for this tree.
set -eu
cd "$(dirname "$0")/.."
want=$(sed -n 's/^go \([0-9]*\.[0-9]*\).*/\1/p' go.mod)

if ! command -v go >/dev/null 2>&1; then
	echo "Spare is built with Go $want or newer, and there is no 'go' on your PATH." >&2
	echo "Install it from https://go.dev/dl/ and run this again." >&2
	exit 1
fi
if ! have=$(go env GOVERSION 2>&1); then
	echo "Spare needs Go $want or newer; 'go env' says: $have" >&2
	echo "Install it from https://go.dev/dl/ and run this again." >&2
	exit 1
fi
version=${have#go}
major=${version%%.*}
rest=${version#*.}
minor=$(printf '%s' "$rest" | sed 's/[^0-9].*//')
if [ "$major" -lt "${want%%.*}" ] || { [ "$major" -eq "${want%%.*}" ] && [ "$minor" -lt "${want#*.}" ]; }; then
	echo "Spare needs Go $want or newer, and this is $have ($(command -v go))." >&2
	echo "Install it from https://go.dev/dl/ and run this again." >&2
	exit 1
fi
