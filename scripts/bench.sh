#!/usr/bin/env bash
# Measures mounts against native directories and prints a table; see
# docs/performance.md. Arguments go to the benchmark: -scale 60, -rounds 5,
# -seconds 6, -lines REGEX. Needs about four times the size of the cluster in
# TMPDIR, and a machine that does nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."

# A short path: a socket's has 107 bytes at most.
work=$(mktemp -d "${TMPDIR:-/var/tmp}/pg0m.XXXXXX")
clean_up() {
	awk -v dir="$work/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | while read -r mount; do
		echo "bench: left mounted: $mount" >&2
		fusermount3 -u -z "$mount" || true
	done
	rm -rf "$work"
}
trap clean_up EXIT
mkdir -p "$work/bin" "$work/tmp" "$work/home"
cp bin/pg0 "$work/bin/pg0"
go vet -tags bench ./tests/bench
go test -c -tags bench -o "$work/bin/bench.test" ./tests/bench
chmod 755 "$work"
run=(env "HOME=$work/home" "TMPDIR=$work/tmp" "PG0_BIN=$work/bin/pg0")
if [ "$(id -u)" = 0 ]; then
	user=${PG0_TEST_USER:-postgres}
	chown -R "$user:" "$work"
	run=(setpriv "--reuid=$user" "--regid=$user" --init-groups "${run[@]}")
fi
cd "$work"
"${run[@]}" "$work/bin/bench.test" -test.run TestBench -test.timeout 60m ${BENCH_VERBOSE:+-test.v} "$@"
