#!/bin/bash
# make ha: three servers under Patroni, whose primary is switched, killed, and left to go on beside another one, while
# clients take locks, slots and leases; and a checker of what they have recorded. See ha/ha.py for what is promised.
#
# SEED says which choices are made, ROUNDS how many times all of it is done, from the second on in an order by chance
# and with more events, and TTL after how many seconds Patroni takes a primary for lost. If a check fails, the histories
# and the logs are kept, and the place is printed.

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"

seed=${SEED:-$RANDOM}
rounds=${ROUNDS:-1}
ttl=${TTL:-9}

main() {
	begin
	need python3 test -x /usr/bin/python3
	need python3-psycopg2 has_module psycopg2
	need python3-psycopg has_module psycopg
	need patroni has patroni
	need python3-etcd has_module etcd
	need etcd-server has etcd
	prepare
	build_and_install
	export PYTHONDONTWRITEBYTECODE=1
	say "SEED=$seed ROUNDS=$rounds TTL=$ttl"
	run as_server /usr/bin/python3 "$src/test/ha/ha.py" "$work" "$bin" "$seed" "$rounds" "$ttl" || keep_histories
	say 'PASSED: only the primary gave out what is promised to be exclusive, and nothing was left'
}

keep_histories() {
	local kept
	kept=$(mktemp -d /tmp/postgres_lock-ha.XXXXXX)
	cp -r "$work/histories" "$kept" || true
	cp "$work"/cluster/*.log "$kept" || true
	die "FAILED: see above; the histories and the logs are in $kept"
}

main
