#!/usr/bin/env bash
# Runs all tests. PostgreSQL refuses root, so root builds in a copy of the
# project that belongs to an ordinary user and runs every test as that user.
# Arguments are packages (default ./...); GO_TEST_FLAGS adds flags.
set -euo pipefail
cd "$(dirname "$0")/.."

user=${PG0_TEST_USER:-postgres}
packages=("$@")
[ "${#packages[@]}" != 0 ] || packages=(./...)
read -r -a flags <<<"${GO_TEST_FLAGS:-}"

# Nothing of a test may stay mounted or running, also when it was killed.
clean_up() {
	trap '' INT TERM HUP
	{ pgrep -f "$work/" || true; } | while read -r pid; do
		[ "$pid" = $$ ] || kill -9 "$pid" 2>/dev/null || true
	done
	awk -v dir="$work/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | while read -r mount; do
		echo "test: left mounted: $mount" >&2
		fusermount3 -u -z "$mount" || true
	done
	rm -rf "$work"
}

# A short path: a socket's has 107 bytes at most.
work=$(mktemp -d /var/tmp/pg0t.XXXXXX)
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

mkdir -p "$work/src" "$work/bin" "$work/tmp" "$work/home"
# In a checkout the files that git knows or would add; elsewhere everything.
if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
	git ls-files -z --cached --others --exclude-standard | tar -c --null --ignore-failed-read -T - 2>/dev/null | tar -x -C "$work/src"
else
	tar -c --exclude=./bin --exclude=./.deps . | tar -x -C "$work/src"
fi
[ ! -d .deps ] || cp -a .deps "$work/src/.deps"
cd "$work/src"
go build -o "$work/bin/pg0" ./cmd/pg0
go build -race -o "$work/bin/pg0-race" ./cmd/pg0
export PG0_BIN="$work/bin/pg0"
# The race detector has each process sleep a second when it ends, and the tests
# start hundreds of them.
export GORACE="atexit_sleep_ms=20 ${GORACE:-}"

run=()
if [ "$(id -u)" = 0 ]; then
	chown -R "$user:" "$work"
	chmod 755 "$work"
	export PG0_TEST_USER="$user" PG0_TEST_WORK="$work"
	run=(-exec "$work/src/scripts/exec.sh")
fi

# Much of what tests do is waiting, so there is more at a time than processors;
# lint has vetted.
flags=(-vet=off -timeout 25m -p "$(($(nproc) + 1))" -parallel "$(($(nproc) + 1))" "${run[@]}" "${flags[@]}")
echo "test: all packages with the race detector"
go test -race "${flags[@]}" "${packages[@]}"
echo "test: mounts once more on one processor"
export PG0_BIN="$work/bin/pg0-race"
once='TestSuiteOneProcessor|TestPostgres|TestMount(Foreground|Interrupted|Busy)$|TestMountScripts/(mount|mount_raw|kill9)$'
once+='|TestMountPoints/shop/(mon|latest)$|TestMountPairs/shop/(tue_in_thu|thu_in_tue)$'
GOMAXPROCS=1 go test -count=1 "${flags[@]}" -run "$once" ./fusefs ./tests
