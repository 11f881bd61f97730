#!/usr/bin/env bash
# Runs examples/shop/demo.sh as an ordinary user: PostgreSQL refuses root.
set -euo pipefail
cd "$(dirname "$0")/.."

archive=tests/testdata/fixtures/shop.tar.zst
if [ "$(id -u)" != 0 ]; then
	exec examples/shop/demo.sh "$PWD/bin/pg0" "$PWD/$archive"
fi
user=${PG0_TEST_USER:-postgres}
work=$(mktemp -d /var/tmp/pg0d.XXXXXX)
trap 'rm -rf "$work"' EXIT
mkdir "$work/home"
cp -r bin/pg0 examples/shop/demo.sh examples/shop/tables.toml "$archive" "$work"
chown -R "$user:" "$work"
chmod 755 "$work"
# In the foreground, so that Ctrl-C reaches it and it can tidy up.
HOME="$work/home" TMPDIR="$work" setpriv --reuid="$user" --regid="$user" --init-groups \
	"$work/demo.sh" "$work/pg0" "$work/shop.tar.zst"
