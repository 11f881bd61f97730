#!/usr/bin/env bash
# go test -exec: runs a test binary as the ordinary user of scripts/test.sh.
# The binary lies in a directory of root's own, so it is copied first.
set -euo pipefail

binary=$(mktemp "$PG0_TEST_WORK/bin/$(basename "$1").XXXXXX")
cp "$1" "$binary"
chown "$PG0_TEST_USER:" "$binary"
chmod 755 "$binary"
shift
export HOME="$PG0_TEST_WORK/home" TMPDIR="$PG0_TEST_WORK/tmp"
unset XDG_RUNTIME_DIR XDG_STATE_HOME
status=0
setpriv --reuid="$PG0_TEST_USER" --regid="$PG0_TEST_USER" --init-groups "$binary" "$@" || status=$?
rm -f "$binary"
exit "$status"
