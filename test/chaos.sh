#!/bin/bash
# make chaos: clients that take locks, slots and leases, while they, their sessions and the server are disturbed; and a
# checker of what they have recorded, which says whether anybody held what another held. See chaos/chaos.py, and
# chaos/rules.py for what is checked.
#
# SECONDS says for how long, CLIENTS how many there are, and SEED which choices they make; when each of them gets
# its turn is up to the machine. If a check fails, the histories are kept, and the place is printed.

seconds=$SECONDS

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"

((seconds > 0)) || seconds=30
clients=${CLIENTS:-8}
seed=${SEED:-$RANDOM}

main() {
	begin
	need python3 test -x /usr/bin/python3
	need python3-psycopg2 has_module psycopg2
	need python3-psycopg has_module psycopg
	prepare
	build_and_install
	export PYTHONDONTWRITEBYTECODE=1
	quietly as_server /usr/bin/python3 "$src/test/chaos/rules_test.py"
	start_server "shared_preload_libraries = 'postgres_lock'" 'statement_timeout = 10s' 'deadlock_timeout = 5ms'
	query -c 'CREATE EXTENSION postgres_lock'
	say "SEED=$seed SECONDS=$seconds CLIENTS=$clients"
	as_server mkdir "$work/histories"
	# libpq says on standard error what happens to connections, which is the point of all this
	run as_server env SERVERS="host=$work,$work port=5432,5433 target_session_attrs=read-write" \
		/usr/bin/python3 "$src/test/chaos/chaos.py" "$work/data" "$work/server.log" "$work/histories" \
		"$seed" "$seconds" "$clients" 2>"$work/errors" || keep_histories
	say 'PASSED: nobody held what another held, and nothing was left'
}

keep_histories() {
	local kept
	tail -n 50 "$work/errors" >&2
	kept=$(mktemp -d /tmp/postgres_lock-chaos.XXXXXX)
	cp -r "$work/histories/." "$work/server.log" "$kept"
	die "FAILED: see above; the histories and the server's log are in $kept"
}

main
