#!/bin/bash
# make bench: what the lock functions cost, as ratios to PostgreSQL's own in the same run.
#
# Every case is measured in pairs of runs, in which each side goes first by turns. PAIRS and SECONDS_PER_RUN
# change how many and how long; nothing here is a test. The registry is on.

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
# shellcheck source=idling.sh
source "$root/test/idling.sh"
# shellcheck source=bench_leases.sh
source "$root/test/bench_leases.sh"
# shellcheck source=bench_slots.sh
source "$root/test/bench_slots.sh"

pairs=${PAIRS:-5}
seconds=${SECONDS_PER_RUN:-3}

main() {
	explain
	begin
	need libpq-dev has_package libpq
	need pkg-config has pkg-config
	need libasio-dev test -f /usr/include/asio.hpp
	need valgrind has valgrind
	need curl has curl
	need etcd-server has etcd
	prepare
	build_and_install
	build_client
	start_server 'max_connections = 150' 'autovacuum = off' 'max_parallel_workers_per_gather = 0' \
		"shared_preload_libraries = 'postgres_lock'" 'max_locks_per_transaction = 2000'
	query -c 'CREATE EXTENSION postgres_lock' \
		-c "CREATE TABLE names AS SELECT 'key:' || n AS name FROM generate_series(1, 200000) n" \
		-c "CREATE TABLE counters AS SELECT 'order:42' AS name, 0 AS value" \
		-c 'VACUUM ANALYZE names'

	printf '\n%-52s %10s %10s %7s %8s %7s\n' case ours without ratio bar goal
	statement 'try + release, 200,000 names, registry on'
	connection
	clients 4
	clients 16
	timeouts
	passed_timeouts
	view
	client guard 'guard of the C++ client, to libpq by hand' 15 '>= 0.95' 1.0
	instructions guard 'instructions of a guard, to libpq by hand' '<= 1.3' 1.2
	instructions coroutine 'the same of a coroutine' '<= 2.6' 2.0
	instructions cluster 'the same of a cluster_guard' '<= 2.0' 1.7
	client section 'critical section, to lock + UPDATE + unlock' "$pairs" '>= 2' 2.8
	client section 'the same, with a network of 0.1 ms each way' "$pairs" '>= 2' 2.8 100
	memory
	slots
	leases
}

# row CASE UNIT OURS BUILTIN RATIO BAR GOAL
row() { printf '%-52s %10s %10s %7s %8s %7s\n' "$1" "$3 $2" "$4 $2" "$5" "$6" "$7"; }

# Says before anything happens what is to come. Two cases are measured in 15 pairs, and sixteen in as many as PAIRS says.
explain() {
	local minutes=$(((2 * (2 * 15 + 16 * pairs) * seconds + 240) / 60))
	cat <<-END
		This measures postgres_lock, and what one does without it: the built-in functions, or libpq by hand.
		It takes about $minutes minutes on an idle machine; on a busy one the figures mean little.

		  ours, without   in ms: how long it takes, less is better; in /s: how often it is done in a second, more is better
		  ratio           ours divided by without, of the pair of runs whose ratio is the median of all pairs
		  bar             what the ratio has to keep to; a change that misses it does not land
		  goal            what it should come to

	END
	warn_of_idling
}

# Of the file `pairs`, the pair whose ratio is the median, and that ratio
median_pair() {
	awk '{ printf "%.6f %s %s\n", $1 / $2, $1, $2 }' "$work/pairs" | sort -n |
		awk '{ line[NR] = $0 } END { split(line[int((NR + 1) / 2)], v); printf "%s %s %.2f\n", v[2], v[3], v[1] }'
}

# measure PAIRS COMMAND OURS BUILTIN: notes in the file `pairs` what the command prints for each
measure() {
	local command ours builtin i
	read -ra command <<<"$2"
	for ((i = 0; i < $1; i++)); do
		((i % 2)) || ours=$("${command[@]}" "$3")
		builtin=$("${command[@]}" "$4")
		((i % 2 == 0)) || ours=$("${command[@]}" "$3")
		say "$ours $builtin"
	done >"$work/pairs"
}

# ms STATEMENT: how long it takes, in ms, on a warm connection
ms() {
	query -c '\o /dev/null' -c "$1" -c '\timing on' -c '\o' -c "$1" |
		sed -nE 's/^Time: ([0-9.]+) ms.*/\1/p'
}

# statement CASE: fresh names, taken and given back inside one statement.
statement() {
	local ours builtin ratio
	measure "$pairs" ms 'SELECT count(*) FROM names WHERE pglock.try(name) AND pglock.release(name)' \
		'SELECT count(*) FROM names
		 WHERE pg_try_advisory_lock(hashtextextended(name, 0))
		   AND pg_advisory_unlock(hashtextextended(name, 0))'
	read -r ours builtin ratio < <(median_pair)
	row "$1" ms "$ours" "$builtin" "$ratio" '<= 1.8' 1.5
}

# tps CLIENTS SCRIPT
tps() {
	pgbench -n -M prepared -c "$1" -j 2 -T "$seconds" -f "$2" >"$work/pgbench" 2>"$log" ||
		die "pgbench failed: $(cat "$log")"
	sed -nE 's/^tps = ([0-9]+).*/\1/p' "$work/pgbench"
}

# compare CASE CLIENTS PAIRS BAR GOAL: the scripts `ours` and `builtin`
compare() {
	local ours builtin ratio
	measure "$3" "tps $2" "$work/ours" "$work/builtin"
	read -r ours builtin ratio < <(median_pair)
	row "$1" /s "$ours" "$builtin" "$ratio" "$4" "$5"
}

connection() {
	printf '%s\n' "SELECT pglock.acquire('order:42');" "SELECT pglock.release('order:42');" >"$work/ours"
	printf '%s\n' "SELECT pg_advisory_lock(hashtextextended('order:42', 0));" \
		"SELECT pg_advisory_unlock(hashtextextended('order:42', 0));" >"$work/builtin"
	compare 'acquire + release, prepared, one connection' 1 15 '>= 0.95' 1.0
}

clients() { compare "acquire + release of one key, $1 clients" "$1" "$pairs" '>= 0.95' 1.0; }

# A timeout of one's own: a client without this extension needs four statements.
timeouts() {
	local i
	for ((i = 0; i < 10; i++)); do
		printf '%s\n' "SELECT pglock.acquire('order:$i', timeout => '5s');" >&3
		printf '%s\n' 'SAVEPOINT before_lock;' "SET LOCAL lock_timeout = '5s';" \
			"SELECT pg_advisory_lock(hashtextextended('order:$i', 0));" 'ROLLBACK TO before_lock;' >&4
	done 3>"$work/acquire" 4>"$work/lock"
	{ say 'BEGIN;'; cat "$work/acquire"; say 'SELECT pglock.release_all();'; say 'COMMIT;'; } \
		>"$work/ours"
	{ say 'BEGIN;'; cat "$work/lock"; say 'SELECT pg_advisory_unlock_all();'; say 'COMMIT;'; } \
		>"$work/builtin"
	compare 'ten locks with a timeout in one block' 1 "$pairs" '>= 3' 4
}

# The same for a lock that somebody else holds: most of the time is the timeout's, 1 ms.
passed_timeouts() {
	local ours builtin ratio i
	query -o /dev/null -c "SELECT pglock.acquire('taken')" -c 'SELECT pg_sleep(3600)' &
	until [[ $(query -c "SELECT pglock.is_free('taken')") == f ]]; do sleep 0.1; done

	for ((i = 0; i < 200; i++)); do
		say "SELECT pglock.acquire('taken', timeout => '1ms');" >&3
		printf '%s\n' 'SAVEPOINT before_lock;' "SET LOCAL lock_timeout = '1ms';" \
			"SELECT pg_advisory_lock(pglock.lock_id('taken'));" 'ROLLBACK TO before_lock;' >&4
	done 3>"$work/ours" 4>"$work/builtin"
	measure "$pairs" attempts "$work/ours" "$work/builtin"
	read -r ours builtin ratio < <(median_pair)
	row 'a timeout of 1 ms that passes' /s "$ours" "$builtin" "$ratio" - -
}

# attempts SCRIPT: how many of its 200 attempts in one block there are in a second
attempts() {
	{
		say '\o /dev/null'
		say 'SELECT clock_timestamp() AS start \gset'
		say 'BEGIN;'
		cat "$1"
		say 'COMMIT;'
		say '\o'
		say "SELECT round(200 / extract(epoch FROM clock_timestamp() - :'start'));"
	} | psql -X -q -A -t 2>/dev/null
}

#
# The C++ client
#

build_client() {
	quietly make -s -C "$src/test/client" BUILD="$work/client" CXXFLAGS=-O2 bench
}

# client CASE TITLE PAIRS BAR GOAL [DELAY]: what test/client/bench.cpp calls CASE, and the same by hand
client() {
	local ours by_hand ratio
	delay=${6:-}
	measure "$3" client_rate "$1" "$1_by_hand"
	read -r ours by_hand ratio < <(median_pair)
	row "$2" /s "$ours" "$by_hand" "$ratio" "$4" "$5"
}

# instructions CASE TITLE BAR GOAL: how many the client runs for a lock, and libpq by hand
instructions() {
	local ours by_hand
	by_hand=$(count_instructions bench guard_by_hand)
	case $1 in
		coroutine) ours=$(count_instructions bench_async) ;;
		cluster) ours=$(count_instructions bench_cluster) ;;
		*) ours=$(count_instructions bench "$1") ;;
	esac
	row "$2" '' "$ours" "$by_hand" "$(awk "BEGIN { printf \"%.2f\", $ours / $by_hand }")" "$3" "$4"
}

# count_instructions PROGRAM [CASE]: of one time; without those of its start, which two counts share
count_instructions() {
	local times counts=()
	for times in 100 1100; do
		counts+=("$(valgrind --tool=callgrind --callgrind-out-file=/dev/null "$work/client/$1" "${@:2}" "${times}x" 2>&1 |
			sed -nE 's/.*Collected *: ([0-9]+).*/\1/p')")
	done
	say $(((counts[1] - counts[0]) / 1000))
}

client_rate() { "$work/client/bench" "$1" "$seconds" ${delay:+"$delay"}; }

#
# The registry
#

# hold COUNT COMMAND...: runs the command while a session holds that many locks, by names
hold() {
	local count=$1
	shift
	hold_by "SELECT count(pglock.acquire('key:' || n)) FROM generate_series(1, $count) AS n" "$count" "$@"
}

# hold_by STATEMENT COUNT COMMAND...: the statement takes locks, and counts them
hold_by() {
	local statement=$1 count=$2 held
	shift 2
	coproc holder { psql -X -q -A -t 2>&1; }
	say "$statement;" >&"${holder[1]}"
	read -r held <&"${holder[0]}"
	[[ $held == "$count" ]] || die "could not take the locks: $held"
	"$@"
	say '\q' >&"${holder[1]}"
	# shellcheck disable=SC2154
	wait "$holder_PID"
}

view() {
	local count
	printf '%s\n' 'SELECT pg_advisory_lock(:client_id);' 'SELECT pg_advisory_unlock(:client_id);' >"$work/pair"
	for count in 10000 100000; do
		hold "$count" view_rows "$count"
	done
}

view_rows() {
	local ours builtin ratio of="$1 holds of another session"
	local read_ours='SELECT * FROM pglock.locks' read_builtin='SELECT * FROM pg_locks'
	measure 9 ms "$read_ours" "$read_builtin"
	read -r ours builtin ratio < <(median_pair)
	row "the view with $of" ms "$ours" "$builtin" "$ratio" '<= 1.2' 1.0
	measure "$pairs" tps_beside "$read_ours" "$read_builtin"
	read -r ours builtin ratio < <(median_pair)
	row 'lock + unlock, 2 clients, beside who reads it' /s "$ours" "$builtin" "$ratio" '>= 0.95' 1.0
}

# tps_beside STATEMENT: of the script `pair`, while the statement is run about five times a second
tps_beside() {
	say "$1;" >"$work/read"
	pgbench -n -c 1 -R 5 -T "$seconds" -f "$work/read" &>/dev/null &
	tps 2 "$work/pair"
	wait $!
}

memory() {
	local count
	printf '\n%-52s\n' 'shared memory of the registry, kB'
	for count in 0 1000 100000; do
		hold "$count" memory_row "$count"
	done
}

memory_row() { printf '%-52s %10s\n' "  with $1 holds" "$(query -c 'SELECT pglock.registry_size() / 1024')"; }

main
