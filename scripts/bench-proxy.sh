#!/usr/bin/env bash
# Throughput, p99 latency and memory of pg0 proxy, side by side with pgbouncer
# (session mode) and a direct connection: pgbench -S on one server, the three in
# turn in each round, so that what else the machine does hits all alike.
# SECONDS_EACH (default 4) and ROUNDS (default 3) make it longer; CLIENTS and
# MODES choose. pgbouncer hands the backends of one run to the next, which are
# warm by then; SERVER_LIFETIME=0 gives each of its clients a new one, as pg0 and
# direct connections do. pgbouncer must be installed.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=/usr/lib/postgresql/15/bin
seconds=${SECONDS_EACH:-4} rounds=${ROUNDS:-3}
read -r -a clients <<<"${CLIENTS:-1 8 64}"
read -r -a modes <<<"${MODES:-simple extended prepared}"

if [ "$(id -u)" = 0 ]; then
	if ! [ -x /usr/sbin/pgbouncer ]; then
		apt-get -qq install -y --no-install-recommends pgbouncer >/dev/null
	fi
	user=${PG0_TEST_USER:-postgres}
	copy=$(mktemp -d /var/tmp/pg0b.XXXXXX)
	trap 'rm -rf "$copy"' EXIT
	mkdir -p "$copy/bin" "$copy/scripts" "$copy/tests/testdata/fixtures"
	cp bin/pg0 "$copy/bin/"
	cp scripts/bench-proxy.sh "$copy/scripts/"
	cp tests/testdata/fixtures/shop.tar.zst "$copy/tests/testdata/fixtures/"
	chown -R "$user:" "$copy"
	setpriv --reuid="$user" --regid="$user" --init-groups "$copy/scripts/bench-proxy.sh"
	exit
fi

work=$(mktemp -d)
pids=()
clean_up() {
	[ "${#pids[@]}" = 0 ] || kill "${pids[@]}" 2>/dev/null || true
	wait
	bin/pg0 umount --force "$work/m" >/dev/null 2>&1 || true
	rm -rf "$work"
}
trap clean_up EXIT
export XDG_STATE_HOME="$work/state" XDG_RUNTIME_DIR="" PATH="$bin:$PATH"

mkdir "$work/fixture" "$work/log"
zstd -dc tests/testdata/fixtures/shop.tar.zst | tar -x -C "$work/fixture"
catalog=$(dirname "$(find "$work/fixture" -type d -name backups | head -n 1)")
bin/pg0 mount -B "$catalog" -i TEI900 --start --set max_connections=400 "$work/m" --json >"$work/mount.json" 2>"$work/mount.log"
socket=$(sed -n 's/.*"socket_dir": "\(.*\)".*/\1/p' "$work/mount.json" | head -n 1)
psql -qX -h "$socket" -U postgres -d postgres -c 'create database bench'
pgbench -iq -s 5 -h "$socket" -U postgres bench >/dev/null 2>&1

cat >"$work/pgbouncer.ini" <<INI
[databases]
bench = host=$socket port=5432 user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = 16433
unix_socket_dir =
auth_type = any
pool_mode = session
max_client_conn = 400
default_pool_size = 380
server_lifetime = ${SERVER_LIFETIME:-3600}
logfile = $work/pgbouncer.log
log_connections = 0
log_disconnections = 0
INI
/usr/sbin/pgbouncer -q "$work/pgbouncer.ini" &
pids+=($!)
bouncer=$!
bin/pg0 proxy --insecure --listen 127.0.0.1:16434 --audit-log "$work/audit" "$work/m" >"$work/listening" &
pids+=($!)
proxy=$!
until grep -q listening "$work/listening" && psql -qX -h 127.0.0.1 -p 16433 -U postgres -d bench -c 'select 1' >/dev/null 2>&1; do
	kill -0 "$proxy" && kill -0 "$bouncer"
	sleep 0.1
done

declare -A host=([direct]=$socket [pgbouncer]=127.0.0.1 [pg0]=127.0.0.1)
declare -A port=([direct]=5432 [pgbouncer]=16433 [pg0]=16434)

one() { # way clients mode
	pgbench -h "${host[$1]}" -p "${port[$1]}" -U postgres -n -S -c "$2" -j "$((($2 + 31) / 32))" -M "$3" -T "$seconds" \
		--log --log-prefix="$work/log/$1" bench 2>/dev/null | awk '/^tps/ { print $3 }' >>"$work/tps.$1"
	cat "$work/log/$1".* | cut -d ' ' -f 3 >>"$work/latency.$1"
	rm -f "$work/log/$1".*
}

printf '%-9s %7s  %10s %10s %10s  %13s  %8s %8s %8s  %13s\n' mode clients 'direct/s' 'bouncer/s' 'pg0/s' 'pg0:bouncer' 'p99 us' 'bouncer' 'pg0' 'pg0:bouncer'
for mode in "${modes[@]}"; do
	for n in "${clients[@]}"; do
		rm -f "$work"/tps.* "$work"/latency.*
		for _ in $(seq "$rounds"); do
			for way in direct pgbouncer pg0; do one "$way" "$n" "$mode"; done
		done
		declare -A tps p99
		for way in direct pgbouncer pg0; do
			tps[$way]=$(awk '{ s += $1 } END { printf "%.0f", s / NR }' "$work/tps.$way")
			p99[$way]=$(sort -n "$work/latency.$way" | awk '{ a[NR] = $1 } END { print a[int(NR * 0.99)] }')
		done
		printf '%-9s %7s  %10s %10s %10s  %13s  %8s %8s %8s  %13s\n' "$mode" "$n" "${tps[direct]}" "${tps[pgbouncer]}" "${tps[pg0]}" \
			"$(awk "BEGIN { printf \"%.2f\", ${tps[pg0]} / ${tps[pgbouncer]} }")" "${p99[direct]}" "${p99[pgbouncer]}" "${p99[pg0]}" \
			"$(awk "BEGIN { printf \"%.2f\", ${p99[pg0]} / ${p99[pgbouncer]} }")"
	done
done

# Sessions of a new proxy that have asked something once and then sit there.
bin/pg0 proxy --insecure --listen 127.0.0.1:16435 --audit-log "$work/audit" "$work/m" >"$work/listening.idle" &
proxy=$!
pids+=("$proxy")
until grep -q listening "$work/listening.idle"; do
	kill -0 "$proxy"
	sleep 0.1
done
printf 'select 1;\n\\sleep 10 s\n' >"$work/idle.sql"
resident() { awk '/VmRSS/ { print $2 }' "/proc/$proxy/status"; }
before=$(resident)
sessions=250
pgbench -h 127.0.0.1 -p 16435 -U postgres -n -c $sessions -j 1 -f "$work/idle.sql" -t 1 bench >/dev/null 2>&1 &
waiting=$!
until [ "$(psql -qXAt -h "$socket" -U postgres -d bench -c "select count(*) from pg_stat_activity where application_name like 'pgbench%' and state = 'idle' and query = 'select 1;'")" = $sessions ]; do
	kill -0 $waiting
	sleep 0.1
done
echo "an idle session takes $((($(resident) - before) * 1024 / sessions)) bytes (resident memory of pg0 proxy with $sessions of them: $(resident) kB)"
wait $waiting
