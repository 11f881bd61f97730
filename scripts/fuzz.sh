#!/usr/bin/env bash
# Runs every fuzz target for FUZZTIME (default 10s).
set -euo pipefail
cd "$(dirname "$0")/.."

git grep -hoE --untracked '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go' >/dev/null
git grep -oE --untracked '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go' | while IFS=: read -r file func; do
	go test -run '^$' -fuzz "^${func#func }\$" -fuzztime "${FUZZTIME:-10s}" "./$(dirname "$file")"
done
