#!/usr/bin/env bash
# Formatting, vet, staticcheck, a tidy go.mod, and shellcheck of the scripts.
set -euo pipefail
cd "$(dirname "$0")/.."

unformatted=$(go tool gofumpt -l .)
if [ -n "$unformatted" ]; then
	printf 'lint: not formatted by gofumpt:\n%s\n' "$unformatted" >&2
	exit 1
fi
go vet ./...
go tool staticcheck ./...
go mod tidy -diff
git ls-files -z '*.sh' .ci/run | xargs -0r shellcheck
echo "lint: clean"
