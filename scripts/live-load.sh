#!/usr/bin/env bash
# Takes live points of a server under pgbench with 8 clients, and compares its
# throughput while they are taken with that of the seconds between. All of it
# runs on this machine: production, its clients, the copy and the recovery.
# LIVE_TAKES (default 20), LIVE_TRANSPORTS ("pgdata sql"), LIVE_RATE (20MB/s),
# LIVE_SCALE of pgbench (10) and LIVE_TPS (0: as many as it can).
set -euo pipefail
cd "$(dirname "$0")/.."

# A short path: a socket's has 107 bytes at most.
work=$(mktemp -d /var/tmp/pg0l.XXXXXX)
clean_up() {
	awk -v dir="$work/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | while read -r mount; do
		echo "live-load: left mounted: $mount" >&2
		umount -l "$mount" || fusermount3 -u -z "$mount" || true
	done
	rm -rf "$work"
}
trap clean_up EXIT
mkdir -p "$work/tmp" "$work/home"
cp bin/pg0 "$work/pg0"
go vet -tags liveload ./tests
go test -c -tags liveload -o "$work/load.test" ./tests
chmod 755 "$work"
run=(env "HOME=$work/home" "TMPDIR=$work/tmp" "PG0_BIN=$work/pg0")
if [ "$(id -u)" = 0 ]; then
	user=${PG0_TEST_USER:-postgres}
	chown -R "$user:" "$work"
	run=(setpriv "--reuid=$user" "--regid=$user" --init-groups "${run[@]}")
fi
cd "$work"
"${run[@]}" "$work/load.test" -test.v -test.timeout 4h -test.run TestLiveLoad "$@"
