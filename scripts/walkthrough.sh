#!/usr/bin/env bash
# What a newcomer does, on a clean clone with an empty build cache, with the time of each
# step: scripts/walkthrough.sh [STEP…]. Without steps: demo test lint cross fuzz. It ends
# with 1 if a step fails or takes longer than it may. BENCH is left to `make bench`.
set -euo pipefail
cd "$(dirname "$0")/.."
here=$PWD
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
git clone -q "$here" "$dir/spare"
cd "$dir/spare"
export GOCACHE=$dir/cache

declare -A most=([demo]=300 [test]=900) # seconds, on two cores
[ $# -gt 0 ] || set -- demo test lint cross fuzz
bad=0
table=
for step in "$@"; do
	started=$SECONDS
	verdict=ok
	make --no-print-directory "$step" || verdict=failed
	took=$((SECONDS - started))
	if [ "$verdict" = ok ] && [ "$took" -gt "${most[$step]:-86400}" ]; then
		verdict="slower than ${most[$step]} s"
	fi
	[ "$verdict" = ok ] || bad=1
	table+=$(printf '%-6s %5d s  %s' "$step" "$took" "$verdict")$'\n'
done
left=$(pgrep -f "$dir" || true)
if [ -n "$left" ]; then
	table+="processes left behind: $left"$'\n'
	bad=1
fi
echo
echo "$table"
exit "$bad"
