#!/bin/bash
# make demo: named locks at work, on a server of its own, in less than a minute.

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"

clients=6
rounds=50

main() {
	begin
	prepare
	build_and_install
	start_server 'max_connections = 50' 'autovacuum = off' "deadlock_timeout = '1s'" \
		"shared_preload_libraries = 'postgres_lock'"
	say "a throwaway server is ready, on a socket in $work"
	query -c 'CREATE EXTENSION postgres_lock'

	counter
	waiting_with_a_timeout
	waiting_without_a_snapshot
	who_holds_what
	two_at_a_time
	late_holder
	what_is_left
}

# Short enough to be read at once: without empty lines.
title() { printf '== %s\n' "$*"; }
table() { query -P tuples_only=off -P format=aligned -P null=- -P footer=off "$@" | sed '/^$/d; s/^/    /'; }

# A session in the background that runs the statements, then waits to be ended.
# session NAME STATEMENTS
session() {
	mkfifo "$work/$1"
	PGAPPNAME=$1 psql -X -q -A -t <"$work/$1" >"$work/$1.out" 2>&1 &
	local fd
	exec {fd}>"$work/$1"
	open[$1]=$fd
	tell "$1" "$2"
}

tell() { printf '%s\n' "$2" >&"${open[$1]}"; }

# Ends a session and shows what it printed.
finish() {
	local fd=${open[$1]}
	tell "$1" '\q' # closing it is not enough: sessions begun later have it open, too
	exec {fd}>&-
	until_true "NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = '$1')"
	sed "s/^/    $1: /" "$work/$1.out"
	rm "$work/$1"
}

declare -A open

until_true() {
	local i
	for ((i = 0; i < 300; i++)); do
		[[ $(query -c "SELECT $1") == t ]] && return
		sleep 0.1
	done
	die "waited in vain for: $1"
}

until_waiting() {
	until_true "EXISTS (SELECT FROM pg_stat_activity
	                    WHERE application_name = '$1' AND wait_event_type = 'Lock')"
}

#
# Lost updates
#

counter() {
	title "$clients client processes add 1 to a counter, $rounds times each: read, think, write"
	query -c 'CREATE TABLE counter (value int); INSERT INTO counter VALUES (0)'

	count_up '' ''
	count_up 'CALL pglock.lock(:key);' 'SELECT pglock.release(:key);'
}

# count_up BEFORE AFTER: what each client does before and after an addition
count_up() {
	local value name='without a lock:   ' expected=$((clients * rounds))
	cat >"$work/count" <<-SQL
		\set value 0
		$1
		SELECT value FROM counter \gset
		\sleep 1 ms
		UPDATE counter SET value = :value + 1;
		$2
	SQL
	[[ -z $1 ]] || name="with the lock 'counter':"
	query -c 'UPDATE counter SET value = 0'
	sed -i "s/:key/'counter'/" "$work/count"
	run_clients
	value=$(query -c 'SELECT value FROM counter')
	printf '  %-24s the counter says %d after %d additions: %d are lost\n' "$name" "$value" "$expected" \
		$((expected - value))
	[[ -z $1 || $value == "$expected" ]] || die 'updates were lost in spite of the lock'
}

# Runs the script `count` in all clients at once.
run_clients() {
	local i started=()
	for ((i = 0; i < clients; i++)); do
		pgbench -n -t "$rounds" -f "$work/count" &>"$work/client$i" &
		started+=($!)
	done
	for i in "${!started[@]}"; do
		wait "${started[i]}" || die "a client failed: $(cat "$work/client$i")"
	done
}

#
# Waiting
#

waiting_with_a_timeout() {
	title 'a session waits for a lock that another holds, with a timeout, inside its transaction'
	query -c 'CREATE TABLE orders (id int, note text)'
	session holder "SELECT pglock.acquire('order:42');"
	until_true "NOT pglock.is_free('order:42')"
	query -c "BEGIN" \
		-c "INSERT INTO orders VALUES (1, 'written before the wait')" \
		-c "SELECT '    acquire(''order:42'', timeout => ''300 ms''): ' ||
		           pglock.acquire('order:42', timeout => '300 ms')" \
		-c "INSERT INTO orders VALUES (2, 'written after it')" \
		-c COMMIT
	say "    (false: the 300 ms passed, and the lock was not free)"
	say "  the transaction went on: $(query -c 'SELECT count(*) FROM orders') rows are committed, one from before the wait" \
		"and one from after it"
	finish holder >/dev/null
}

waiting_without_a_snapshot() {
	title 'a session waits while an index is built concurrently'
	session holder "SELECT pglock.acquire('migration');"
	until_true "NOT pglock.is_free('migration')"

	say '  backend_xmin is the oldest transaction whose rows a session keeps VACUUM from cleaning up'
	session builtin "SELECT pg_advisory_lock(pglock.lock_id('migration'));"
	until_waiting builtin
	say "  waiting in pg_advisory_lock(): backend_xmin is $(xmin_of builtin)"
	session index "CREATE INDEX CONCURRENTLY orders_id ON orders (id);"
	until_true "$(is_blocked index builtin)"
	sleep 2
	until_true "$(is_blocked index builtin)"
	say "  CREATE INDEX CONCURRENTLY has made no progress for 2 s; its phase is" \
		"\"$(query -c 'SELECT phase FROM pg_stat_progress_create_index')\". Cancelling both"
	query -o /dev/null -c "SELECT pg_cancel_backend(pid) FROM pg_stat_activity
	                       WHERE application_name IN ('builtin', 'index')"
	finish builtin >/dev/null
	finish index >/dev/null
	query -c 'DROP INDEX IF EXISTS orders_id'

	session ours "CALL pglock.lock('migration');"
	until_waiting ours
	say "  waiting in CALL pglock.lock(): backend_xmin is $(xmin_of ours), there is no snapshot"
	[[ $(xmin_of ours) == NULL ]] || die 'it waits with a snapshot'
	query -c 'CREATE INDEX CONCURRENTLY orders_id ON orders (id)'
	say '  CREATE INDEX CONCURRENTLY has finished meanwhile'
	finish holder >/dev/null
	until_true "NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
	finish ours >/dev/null
}

# is_blocked SESSION BY: a condition
is_blocked() {
	say "EXISTS (SELECT FROM pg_stat_activity AS waiter, pg_stat_activity AS holder
	     WHERE waiter.application_name = '$1' AND holder.application_name = '$2'
	       AND holder.pid = ANY (pg_blocking_pids(waiter.pid)))"
}

xmin_of() {
	query -c "SELECT coalesce(backend_xmin::text, 'NULL') FROM pg_stat_activity
	          WHERE application_name = '$1'"
}

#
# Who holds what
#

who_holds_what() {
	title 'who holds what, who waits for whom, and what was waited for'
	session payments "SELECT pglock.acquire('order:42'), pglock.acquire('report', shared => true);"
	until_true "NOT pglock.is_free('order:42') AND NOT pglock.is_free('report')"
	session refunds "CALL pglock.lock('order:42');"
	until_waiting refunds
	say '  pglock.locks; granted: t holds the lock, f waits for it; blocked_by: the pids that a waiter waits for'
	table -c "SELECT key, mode, scope, granted, application_name, pid, blocked_by
	          FROM pglock.locks ORDER BY key, granted DESC"
	query -c "SELECT '    ' || waiter.application_name || ' waits for ' || holder.application_name ||
	                 ', who holds \"' || holder.key || '\"'
	          FROM pglock.locks AS waiter
	          JOIN pglock.locks AS holder ON holder.granted AND holder.lock_id = waiter.lock_id
	                                     AND holder.pid = ANY (waiter.blocked_by)"
	finish payments >/dev/null
	until_true "NOT EXISTS (SELECT FROM pglock.locks WHERE NOT granted)"
	finish refunds >/dev/null
	say '  pglock.contention; waits: how often sessions had to wait; timeouts, cancels: waits that ended without the lock'
	table -c "SELECT key, waits, total_wait_time::int AS total_ms, max_wait_time::int AS max_ms, timeouts, cancels
	          FROM pglock.contention ORDER BY total_wait_time DESC"
}

#
# Slots
#

two_at_a_time() {
	local name given_back
	title 'three exports, of which two may run at a time: two slots'
	for name in export-1 export-2 export-3; do
		session "$name" "CALL pglock.slot('exports', 2);"
		until_true "EXISTS (SELECT FROM pglock.locks WHERE key = 'exports' AND application_name = '$name')"
	done
	say '  slot: the number of the slot, 0 waits for any'
	table -c "SELECT key, slot, granted, application_name, pid, blocked_by
	          FROM pglock.locks WHERE key = 'exports' ORDER BY application_name"
	given_back=$(query -c "SELECT slot FROM pglock.locks WHERE application_name = 'export-1'")
	tell export-1 "SELECT pglock.release_slot('exports', $given_back);"
	until_true "NOT EXISTS (SELECT FROM pglock.locks WHERE NOT granted)"
	say "  export-1 has given slot $given_back back, and $(query -c "SELECT application_name FROM pglock.locks
		WHERE slot = $given_back") has it now"
	for name in export-1 export-2 export-3; do finish "$name" >/dev/null; done
}

#
# A lease
#

late_holder() {
	local first second
	title 'a lease of 1 s, each call over a connection of its own, as behind a pooler: its holder pauses for too long'
	query -c 'CREATE TABLE payouts (paid_by text)'
	first=$(lease first)
	say "  the first holder has token $first, and does not renew it"
	second=$(lease second)
	say "  the second has waited until the lease expired: token $second"
	pay first "$first"
	pay second "$second"
	[[ $(query -c 'SELECT string_agg(paid_by, $$ $$) FROM payouts') == second ]] || die 'the late write was not refused'
	say '  (check_lease refuses the late write, and nobody can take the lease over before COMMIT)'
}

# lease HOLDER: its token
lease() { query -c "SELECT pglock.acquire_lease('payout', ttl => '1s', holder => '$1')"; }

# pay HOLDER TOKEN
pay() {
	local answer
	answer=$(query -c 'BEGIN' -c "SELECT pglock.check_lease('payout', $2)" \
		-c "INSERT INTO payouts VALUES ('$1')" -c COMMIT 2>&1 | sed -n '/^ERROR/p') || true
	say "  BEGIN; check_lease; INSERT; COMMIT by the $1 holder: ${answer:-written}"
}

#
# The end
#

what_is_left() {
	title 'the end: the server and its folder are removed'
	say "  what stays: the extension in $extension_folder${installed:+,
    and the packages installed for it: $installed}"
	if [[ $server != postgresql-* ]]; then
		say "  to use it: CREATE EXTENSION postgres_lock in a database of this PostgreSQL"
	else
		how_to_use "${server#postgresql-}"
	fi
}

# how_to_use VERSION: with Debian's commands, each as root. Its packages, as installed here, come without a server.
how_to_use() {
	local version=$1 cluster
	cluster=$(pg_lsclusters -h 2>/dev/null | awk -v version="$version" '$1 == version { print $2; exit }')
	say "  to use it on a real server, as root:"
	[[ -n $cluster ]] || say "    pg_createcluster $version main --start"
	say "    runuser -u postgres -- psql --cluster $version/${cluster:-main} -c 'CREATE EXTENSION postgres_lock'"
	say "    runuser -u postgres -- psql --cluster $version/${cluster:-main} -c \"SELECT pglock.acquire('order:42')\""
	((version >= 17)) ||
		say "  to see the names of other sessions' locks there: shared_preload_libraries = 'postgres_lock', and a restart"
}

main
