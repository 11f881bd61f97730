#!/usr/bin/env bash
# The main job on a real week of backups, as an ordinary user:
#   demo.sh PG0 ARCHIVE
# PG0 is the program, ARCHIVE the shop's backups. Everything happens below a
# temporary directory and is gone at the end.
set -euo pipefail

pg0=$1 archive=$2
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/shop.XXXX")
export XDG_STATE_HOME=$work/state XDG_RUNTIME_DIR=$work/run
export PAGER="" PSQLRC=/dev/null PGTZ=UTC
mkdir -m 700 "$work/run"

clean_up() {
	local status=$?
	trap '' INT TERM HUP
	cd /
	for mount in "$work/now" "$work/mix" "$work/production"; do
		[ ! -d "$mount" ] || "$pg0" umount --force "$mount" || true
	done
	rm -rf "$work"
	exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }

# Shows a command, then runs it.
run() {
	printf '\033[36m$ %s\033[0m\n' "$(printf '%s ' "$@" | sed "s|$pg0|pg0|g; s|$work/||g; s|-h [^ ]*|-h \$SOCKET|")"
	"$@"
}

# psql on a mount: the name of the mount, then psql's own options.
sql() {
	local socket
	socket=$("$pg0" status --json "$work/$1" | sed -n 's/.*"socket_dir": "\(.*\)",*/\1/p')
	shift
	psql -h "$socket" -U postgres -d shop -v ON_ERROR_STOP=1 --no-psqlrc "$@"
}

ask() {
	printf '\033[36mshop=> %s\033[0m\n' "$2"
	sql "$1" -c "$2"
}

cd "$work"
mkdir backups
zstd -q -d --long=27 -c "$archive" | tar -xf - -C backups
cp "$here/tables.toml" .

say "A week of backups, as pg_probackup made them"
run "$pg0" points -B backups --instance shop

say "Thursday's cluster, with tables of Monday, Tuesday and Wednesday"
run "$pg0" frankenstein --map tables.toml --start mix

say "One query over two dates: what did Wednesday's accident delete?"
ask mix "select w.status, count(*), min(w.placed)::date, max(w.placed)::date
from wednesday.orders w left join public.orders t using (id)
where t.id is null group by w.status order by w.status"

say "Three dates in one query: the worth of those orders at Monday's prices"
ask mix "select count(distinct w.id) as orders, sum(i.qty * p.price) as at_mondays_prices
from wednesday.orders w
left join public.orders t using (id)      -- Thursday
join public.order_items i on i.order_id = w.id
join public.products p on p.id = i.product_id  -- Monday
where t.id is null"

say "Before and after 'add column channel', side by side"
ask mix "select o.channel, count(*) as today, count(m.id) as on_monday
from public.orders o left join monday.orders m using (id) group by o.channel order by 2 desc"

say "A table that was dropped, and one that was truncated"
ask mix "select (select count(*) from coupons) as coupons, (select count(*) from audit_log) as audit_log,
       (select count(*) from monday.audit_log) as mondays_audit_log"

say "Where each relation comes from"
ask mix "select relation, point, backup, recovered_to_lsn, mode from pg0.provenance"

say "The rows go home: into a table, through pg_dump -t, into production"
run "$pg0" mount -B backups --instance shop -i TENT00 --start production
ask production "select count(*) as orders_before from orders"
cat >live.toml <<END
version = 1
[sources.nightly]
format = "probackup"
path   = "backups"
[sources.prod]
format = "live"
dsn    = "host=$("$pg0" status --json production | sed -n 's/.*"socket_dir": "\(.*\)",*/\1/p') user=postgres dbname=shop"
rate   = "50MB/s"
[points]
thursday  = { source = "nightly", at = "TENT00" }
morning   = { source = "nightly", at = "TELYC0" }
afternoon = { source = "nightly", at = 2026-05-06T14:00:02Z }
prod      = { source = "prod", at = "now" }
[base]
point = "thursday"
[[relation]]
name = "shop.public.orders"
from = "morning"
as   = "morning.*"
[[relation]]
name = "shop.public.orders"
from = "afternoon"
as   = "afternoon.*"
[[relation]]
name = "shop.public.orders"
from = "prod"
as   = "live.*"
END
run "$pg0" frankenstein --map live.toml --start now
ask now "select (select count(*) from morning.orders) as morning, (select count(*) from afternoon.orders) as afternoon,
       (select count(*) from live.orders) as production_now,
       (select count(*) from (select id from morning.orders except select id from live.orders) x) as lost_since"
ask mix "create schema rescue;
create table rescue.orders as
select w.* from wednesday.orders w left join public.orders o using (id) where o.id is null"
socket=$("$pg0" status --json mix | sed -n 's/.*"socket_dir": "\(.*\)",*/\1/p')
printf '\033[36m$ pg_dump -t rescue.orders shop | psql -h production shop\033[0m\n'
sql production -q -c "create schema rescue"
pg_dump -h "$socket" -U postgres -t rescue.orders shop | sql production -q -o /dev/null
ask production "insert into orders select * from rescue.orders"
ask production "select count(*) as orders_after from orders"

say "Production as it is now, beside the days before: is anything still lost?"
run "$pg0" refresh now --point prod
ask now "select (select count(*) from morning.orders) as morning, (select count(*) from afternoon.orders) as afternoon,
       (select count(*) from live.orders) as production_now,
       (select count(*) from (select id from morning.orders except select id from live.orders) x) as lost_since"

rescued=$(sql production -Atc "select count(*) from rescue.orders")
lost=$(sql mix -Atc "select count(*) from rescue.orders")
still=$(sql now -Atc "select count(*) from (select id from morning.orders except select id from live.orders) x")
if [ "$rescued" != "$lost" ] || [ "$rescued" = 0 ] || [ "$still" != 0 ]; then
	echo "demo: $lost rows were lost and $rescued came back, $still are missing" >&2
	exit 1
fi
say "$rescued rows are back. Unmounting; the backups were only read."
