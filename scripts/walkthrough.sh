#!/usr/bin/env bash
# What a newcomer does, on a clean clone with an empty build cache, with the time of each
# step: scripts/walkthrough.sh [STEP…]. Without steps: demo test lint cross fuzz. It ends
# with 1 if a step fails or takes longer than it may, and then keeps what each step printed
# and the demo's logs in a folder that it names. BENCH is left to `make bench`.
set -euo pipefail
cd "$(dirname "$0")/.."
here=$PWD
dir=$(mktemp -d)
evidence=
trap 'keep; rm -rf "$dir"' EXIT

# keep saves what tells why a step failed from the clone, which goes.
keep() {
	[ -n "$evidence" ] || return 0
	mkdir -p "$evidence"
	cp "$dir"/*.log "$evidence" 2>/dev/null || true
	if [ -d "$dir/spare/demo-out" ]; then
		cp -R "$dir/spare/demo-out/logs" "$evidence/demo-logs" 2>/dev/null || true
		cp "$dir/spare/demo-out/report.json" "$evidence" 2>/dev/null || true
	fi
	echo "what tells why is kept in $evidence" >&2
}

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
	make --no-print-directory "$step" 2>&1 | tee "$dir/$step.log" || verdict=failed
	took=$((SECONDS - started))
	if [ "$verdict" = ok ] && [ "$took" -gt "${most[$step]:-86400}" ]; then
		verdict="slower than ${most[$step]} s"
	fi
	if [ "$verdict" != ok ]; then
		bad=1
		evidence=${evidence:-$(mktemp -d "${TMPDIR:-/tmp}/spare-walkthrough-XXXXXX")}
	fi
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
