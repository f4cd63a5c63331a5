#!/usr/bin/env bash
# Runs every fuzz target of the module for a time each (default 60s): fuzz.sh 10s
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-60s}

targets=$(grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | grep -v '^\./bench/' | sed 's/:func /\t/' | sort -u)
if [ -z "$targets" ]; then
	echo "no fuzz target found below $PWD" >&2
	exit 1
fi
failed=0
while IFS=$'\t' read -r file name; do
	dir=$(dirname "$file")
	echo "== $dir $name ($time)"
	if ! go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" "$dir"; then
		failed=1
	fi
done <<<"$targets"
exit "$failed"
