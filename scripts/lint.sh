#!/usr/bin/env bash
# gofumpt, go vet and staticcheck (pinned in go.mod), shellcheck where it is installed, and no file past 600 lines.
set -euo pipefail
cd "$(dirname "$0")/.."
bad=0

sources() { find . -name '*.go' -not -name '*.pb.go' -not -path './dist/*' -not -path './.git/*' "$@"; }

unformatted=$(sources -print0 | xargs -0 go tool gofumpt -l)
if [ -n "$unformatted" ]; then
	echo "gofumpt would change these; run: go tool gofumpt -w FILE" >&2
	echo "$unformatted" >&2
	bad=1
fi

go vet ./... || bad=1
go tool staticcheck ./... || bad=1

long=$(sources -print0 | xargs -0 wc -l | awk '$2 != "total" && $1 > 600')
if [ -n "$long" ]; then
	echo "these files are longer than 600 lines; does a second noun hide in them?" >&2
	echo "$long" >&2
	bad=1
fi

if command -v shellcheck >/dev/null 2>&1; then
	find scripts installers .ci -name '*.sh' -print0 | xargs -0 shellcheck || bad=1
	shellcheck .ci/run || bad=1
fi

[ "$bad" -eq 0 ] && echo "lint: clean"
exit "$bad"
