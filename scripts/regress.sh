#!/usr/bin/env bash
# PostgreSQL's own regression suite, from Debian's source package, on a mount
# of a hot backup, on a native directory and through the proxy; then the database that the suite
# leaves as a catalog, with every table adopted, and as a live source. Not part of make test.
set -euo pipefail
cd "$(dirname "$0")/.."

major=15
bin=/usr/lib/postgresql/$major/bin
package=postgresql-$major
suite=$PWD/.deps/regress

if [ "$(id -u)" = 0 ]; then
	user=${PG0_TEST_USER:-postgres}
else
	user=$(id -un)
fi

say() { echo "regress: $*" >&2; }

# The machine's own package archives, for sources, in a configuration aside:
# that of the machine stays as it is.
source_lists() {
	local file
	mkdir -p "$1/parts" "$1/lists/partial"
	for file in /etc/apt/sources.list.d/*.sources; do
		[ ! -f "$file" ] || sed 's/^Types:.*/Types: deb-src/' "$file" >"$1/parts/$(basename "$file")"
	done
	for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
		[ ! -f "$file" ] || sed -n 's/^deb /deb-src /p' "$file" >"$1/parts/$(basename "$file" .list)-src.list"
	done
}

# The source of the installed version, or where the archive no longer has it
# another of the same major version.
fetch_source() {
	local apt=(apt-get -qq -o "Dir::Etc::sourcelist=/dev/null" -o "Dir::Etc::sourceparts=$1/parts" -o "Dir::State::lists=$1/lists" -o "APT::Sandbox::User=") version
	# An archive without sources is an error that does not matter.
	"${apt[@]}" update >"$1/update.log" 2>&1 || true
	for version in $({ dpkg-query -W -f '${Version}\n' $package; apt-cache "${apt[@]:2}" showsrc $package | sed -n 's/^Version: //p' | sort -Vru; } | awk '!seen[$0]++'); do
		if (cd "$1" && "${apt[@]}" --download-only source "$package=$version") >"$1/source.log" 2>&1; then
			say "sources of $package $version, programs of $(dpkg-query -W -f '${Version}' $package)"
			return
		fi
		rm -f "$1"/"${package}"_*
	done
	cat "$1/update.log" "$1/source.log" >&2
	say "no source package of $package can be had"
	exit 1
}

# The headers of the server alone: their package depends on a whole compiler.
fetch_headers() {
	(cd "$1" && apt-get -qq -o "APT::Sandbox::User=" download "postgresql-server-dev-$major" && dpkg-deb -x postgresql-server-dev-"$major"_*.deb headers)
}

build_suite() {
	local work
	work=$(mktemp -d)
	source_lists "$work"
	fetch_source "$work"
	fetch_headers "$work"
	rm -rf "$suite"
	mkdir -p "$suite.new/lib"
	tar -xf "$work/${package}"_*.orig.tar.* -C "$suite.new" --strip-components=4 --wildcards '*/src/test/regress'
	gcc -O1 -fPIC -shared -w -I"$work/headers/usr/include/postgresql/$major/server" -o "$suite.new/lib/regress.so" "$suite.new/regress.c"
	cp "/usr/lib/postgresql/$major/lib/refint.so" "/usr/lib/postgresql/$major/lib/autoinc.so" "$suite.new/lib"
	mv "$suite.new" "$suite"
	rm -rf "$work"
}

command -v gcc >/dev/null || { say "gcc is missing: apt-get install gcc libc6-dev"; exit 1; }
[ -f "$suite/lib/regress.so" ] || build_suite

# A short path: a socket's has 107 bytes at most.
work=$(mktemp -d /var/tmp/pg0r.XXXXXX)
clean_up() {
	awk -v dir="$work/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | while read -r mount; do
		say "left mounted: $mount"
		umount -l "$mount" || fusermount3 -u -z "$mount" || true
	done
	rm -rf "$work"
}
trap clean_up EXIT
mkdir -p "$work/bin" "$work/tmp" "$work/home"
cp -a "$suite" "$work/suite"
cp bin/pg0 "$work/bin/pg0"
go vet -tags regress ./tests/regress ./tests
go test -c -tags regress -o "$work/bin/regress.test" ./tests/regress
go test -c -tags regress -o "$work/bin/large.test" ./tests
chmod 755 "$work"
run=(env "HOME=$work/home" "TMPDIR=$work/tmp" "PG0_BIN=$work/bin/pg0" "PG0_REGRESS_SUITE=$work/suite"
	"PG0_REGRESS_PGREGRESS=$(dirname "$("$bin/pg_config" --pgxs)")/../test/regress/pg_regress")
if [ "$(id -u)" = 0 ]; then
	chown -R "$user:" "$work"
	run=(setpriv "--reuid=$user" "--regid=$user" --init-groups "${run[@]}")
fi
cd "$work"
"${run[@]}" "$work/bin/large.test" -test.v -test.run TestWorldsLarge
"${run[@]}" "$work/bin/regress.test" -test.v -test.timeout 60m "$@"
