#!/bin/bash
# make postgres-test: PostgreSQL's own tests, of one session and of several, on a server that has the extension
# preloaded and in which every session holds locks; see hold_locks.c and checking.sh.

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
# shellcheck source=checking.sh
source "$root/test/checking.sh"

main() {
	local status=0
	begin
	need_checking_postgres
	((${#missing[@]} == 0)) || install_missing
	find_checking_postgres
	prepare
	build_and_install
	quietly gcc -shared -fPIC -O1 -Wall -Werror -I"$("$PG_CONFIG" --includedir-server)" -o "$work/hold_locks.so" \
		"$root/test/hold_locks.c"
	cat >"$work/server.conf" <<-END
		shared_preload_libraries = 'postgres_lock'
		session_preload_libraries = '$work/hold_locks.so'
		pglock.warnings = off
		max_prepared_transactions = 2
		max_locks_per_transaction = 256
	END

	cd "$checking/sources/src/test"
	# it shows all advisory locks of the database
	sed 's/ advisory_lock\b//' regress/parallel_schedule >"$work/regress_schedule"
	own_tests regress pg_regress "$work/regress_schedule" --max-concurrent-tests=20 || status=1
	own_tests isolation pg_isolation_regress isolation/isolation_schedule || status=1
	return $status
}

# own_tests NAME PROGRAM SCHEDULE [OPTION...]: runs them in a server of their own.
own_tests() {
	local name=$1 program=$2 schedule=$3 output=$work/$1 status=0
	shift 3
	title "PostgreSQL's own tests: $name"
	as_server mkdir "$output"
	run as_server "./$name/$program" --temp-instance="$output/server" --temp-config="$work/server.conf" --no-locale \
		--inputdir="$name" --outputdir="$output" --dlpath="$PWD/$name" --bindir="$bin" --schedule="$schedule" \
		"$@" &>"$output.said" || status=1
	if ((status == 0)) && grep -E 'terminated by signal|TRAP:|PANIC' "$output/log/postmaster.log"; then
		status=1
	fi
	if ((status > 0)); then
		grep -vE '^(ok|test .* ok) ' "$output.said"
		head -n 500 "$output/regression.diffs" || tail -n 50 "$output/log/postmaster.log" || true
	fi
	tail -n 5 "$output.said"
	return $status
}

main
