#!/usr/bin/env bash
# Runs every fuzz target of the module for a time each (default 60s), one on each core at
# once: fuzz.sh 10s
set -euo pipefail
cd "$(dirname "$0")/.."
export FUZZTIME=${1:-60s}

targets=$(grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | grep -v '^\./bench/' | sed 's/:func / /' | sort -u)
if [ -z "$targets" ]; then
	echo "no fuzz target found below $PWD" >&2
	exit 1
fi

fuzz() { # FILE NAME
	local dir said code=0
	dir=$(dirname "$1")
	said=$(go test -run '^$' -fuzz "^$2\$" -fuzztime "$FUZZTIME" -parallel 1 "$dir" 2>&1) || code=1
	printf '== %s %s (%s)\n%s\n' "$dir" "$2" "$FUZZTIME" "$said"
	return "$code"
}
export -f fuzz
xargs -P "$(getconf _NPROCESSORS_ONLN)" -L 1 bash -c 'fuzz "$@"' fuzz <<<"$targets"
