#!/bin/bash
# make test: builds and installs the extension and runs every test against servers of its own.
#
# TESTS="keys timeout 001_no_leak" runs those only: names of files in sql, test/specs and test/t.
# What pg_regress finds becomes TAP, so that prove counts all tests and its summary speaks for all. The TAP tests, which
# mostly wait, run as many at a time as there are processors: each has servers and files of its own.
# TESTS_ENVIRONMENT="NAME=value..." is for the tests and the servers alone, as what a sanitizer needs.

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/drivers.sh"

main() {
	begin
	need libipc-run-perl perl -MIPC::Run -e 1
	need perl has prove
	if asked_for 050_client 052_many_servers 062_pgbouncer 064_migration "${driver_tests[@]}"; then
		need_client
		need cmake has cmake
	fi
	need_pools
	! asked_for 052_many_servers || need python3-psycopg has_module psycopg
	! asked_for 067_vanished || need iproute2 has ip
	prepare
	build_and_install
	tools=$(test_tools)

	read -r -d '' -a given <<<"${TESTS_ENVIRONMENT:-}" || true
	get_ready_for_tap
	begin_client_test
	results=()
	# one session at a time needs nothing preloaded, so those tests show that nothing has to be
	choose "$src"/sql/[^-]*.sql
	pg_regress sql regress/pg_regress "$src" "${chosen[@]}"
	choose "$src"/test/specs/*.spec
	pg_regress isolation isolation/pg_isolation_regress "$src/test" "${chosen[@]}"
	choose "$src"/test/t/*.pl
	find_service POSTGRES_EXPORTER prometheus-postgres-exporter /usr/bin/prometheus-postgres-exporter 039_exporter
	find_service PROMTOOL prometheus /usr/bin/promtool 039_exporter
	find_service BOUNCER pgbouncer /usr/sbin/pgbouncer 062_pgbouncer 074_lease_pgbouncer
	find_service PGPOOL pgpool2 /usr/sbin/pgpool 069_pgpool
	find_plproxy
	find_drivers
	find_node_packages
	await_rust
	prove_all "${chosen[@]}"
}

# Is one of these tests to run?
asked_for() {
	local name
	for name; do
		[[ " ${TESTS:-$name} " != *" $name "* ]] || return 0
	done
	return 1
}

# What the test of pools in programs is run with, if it is to run.
need_pools() {
	asked_for 063_pools || return 0
	need_driver_packages
	need python3-psycopg-pool has_module psycopg_pool
	need libhikaricp-java has_jar HikariCP
}

# Notes in `chosen` the names of those tests among the files that TESTS asks for.
choose() {
	local file name
	chosen=()
	for file; do
		name=$(basename "${file%.*}")
		[[ ! -e $file || $name == postgres_lock--* || " ${TESTS:-$name} " != *" $name "* ]] ||
			chosen+=("$name")
	done
}

# find_service VARIABLE PACKAGE PROGRAM TEST...: says in the variable where the program is, if one of the tests
# is to run. Its package would start a service, so it is unpacked and not installed. Without the program the
# tests skip what they can't do, but not in CI.
find_service() {
	local -n found=$1
	local package=$2 program=$3
	export "${1?}"
	asked_for "${@:4}" && [[ -z ${found:-} ]] || return 0
	if has "${program##*/}" >/dev/null; then
		found=$(has "${program##*/}")
	elif has apt-get >/dev/null && unpack "$package"; then
		found=$work/$package$program
		has_libraries "$found" || install_dependencies "$work/$package"/*.deb
	else
		do_without "$package"
	fi
}

# Adds PL/Proxy to a PostgreSQL of Debian. Another one may lack it: then its tests are skipped, but not in CI.
find_plproxy() {
	asked_for 054_plproxy 055_adding_servers || return 0
	[[ ! -e $("$PG_CONFIG" --pkglibdir)/plproxy.so ]] || return 0
	[[ $server == postgresql-* ]] || { do_without PL/Proxy; return; }
	update_lists
	say "installing with apt-get: $server-plproxy"
	apt_get install --no-install-recommends "$server-plproxy" || do_without "$server-plproxy"
}

# Tests are skipped without it, but not in CI.
do_without() {
	[[ -z ${CI:-} ]] || die "could not get $1"
	say "could not get $1, going on without it"
}

# unpack PACKAGE: into a folder of its name
unpack() {
	local folder=$work/$1
	as_server mkdir "$folder"
	download "$1" "$folder" || { apt_get update && download "$1" "$folder"; } || return
	as_server dpkg-deb -x "$folder"/*.deb "$folder"
}

has_libraries() { ! ldd "$1" | grep -q 'not found'; }

# of a package that is a file
install_dependencies() {
	local dependencies
	dependencies=$(dpkg-deb -f "$1" Depends)
	say "installing with apt-get: $dependencies"
	apt_get satisfy --no-install-recommends "$dependencies" || die "could not install: $dependencies"
}

# download PACKAGE FOLDER
download() { (cd "$2" && as_server apt-get -qq download "$1" </dev/null) &>"$log"; }

# pg_regress SUITE PROGRAM INPUT TEST...: runs the tests on a server that the program starts, and
# notes in `results` the file that says how they ended.
pg_regress() {
	local suite=$1 program=$2 input=$3
	local output=$work/$suite
	shift 3
	(($# > 0)) || return 0

	title "$suite"
	as_server mkdir "$output"
	run show_and_log as_server env "${given[@]}" "$tools/$program" --temp-instance="$output/server" \
		--temp-config="$src/test/$suite.conf" --inputdir="$input" --outputdir="$output" \
		--bindir="$bin" --encoding=UTF8 --no-locale --load-extension=postgres_lock "$@" ||
		cat "$output/regression.diffs" || true
	to_tap "$output/log/postmaster.log" "$@" <"$log" >"$work/$suite.tap"
	results+=("$suite.tap")
}

show_and_log() { "$@" 2>&1 | tee "$log"; }

# to_tap SERVERLOG TEST...: pg_regress's output as TAP; since PostgreSQL 16 it nearly is. A test that it
# does not mention is missed in the plan.
to_tap() {
	local server_log=$1 crashes
	shift
	say "1..$(($# + 1))"
	sed -nE 's/^test +([^ ]+) +\.\.\. ok .*/ok - \1/p; s/^test +([^ ]+) +\.\.\. FAILED.*/not ok - \1/p
		s/^(ok|not ok) +[0-9]+ +- +([^ ]+) .*/\1 - \2/p'
	if crashes=$(grep -E 'terminated by signal|TRAP:|PANIC' "$server_log") || [[ ! -s $server_log ]]; then
		say "not ok - no crash in the server's log"
		printf 'in %s: %s\n' "$server_log" "${crashes:-nothing}" >&2
	else
		say "ok - no crash in the server's log"
	fi
}

# Says in `environment` what the TAP tests are told.
get_ready_for_tap() {
	# the second and the third are what PostgreSQL 16 has made of the first
	environment=(TESTDIR="$work/tap" TESTDATADIR="$work/tap/tmp_check" TESTLOGDIR="$work/tap/tmp_check/log"
		PGPORT=65432 PG_REGRESS="$tools/regress/pg_regress" "${given[@]}")
	as_server mkdir "$work/tap"
}

# Begins the test that compiles for minutes, if it is to run: what others need is got meanwhile. For prove there is one
# that says what this says, and ends when and as this does.
begin_client_test() {
	asked_for 050_client || return 0
	{
		local status=0
		as_server env "${environment[@]}" perl -I "$tools/perl" -I "$src" "$src/test/t/050_client.pl" \
			</dev/null >"$work/050_client.tap" || status=$?
		say "$status" >"$work/050_client.status"
	} &
	as_server mkdir "$work/begun"
	cat >"$work/begun/050_client.pl" <<-END
		system qw(tail -n +1 -f --pid=$! $work/050_client.tap);
		exec 'sh', '-c', 'exit \$(cat $work/050_client.status)';
	END
}

# Runs the TAP tests; prove's summary, of all suites, comes last.
prove_all() {
	local status=0 tests=("${results[@]}")
	local name

	for name; do
		case $name in
			067_vanished)
				run in_network_namespace "${environment[@]}" \
					perl -I "$tools/perl" -I "$src" "src/test/t/$name.pl" >"$work/$name.tap" || true
				tests+=("$name.tap")
				;;
			050_client)
				tests=("begun/$name.pl" "${tests[@]}")
				;;
			*)
				tests+=("src/test/t/$name.pl")
				;;
		esac
	done
	((${#tests[@]} > 0)) || die "there are no tests: ${TESTS:-}"

	title 'TAP, and the summary of all'
	run show_and_log as_server env "${environment[@]}" prove --timer -I "$tools/perl" -I "$src" -j "$(nproc)" \
		"${tests[@]}" || status=$?
	if ((status != 0)); then
		failed_logs
		tail -n 1 "$log"
	fi
	return $status
}

# in_network_namespace VARIABLE=VALUE... COMMAND...: runs it as the server's user in a network namespace of its own,
# with the capabilities to make more of them. Where that is refused, it runs without.
in_network_namespace() {
	local user=postgres new=+net_admin,+sys_admin
	((EUID == 0)) || user=$(id -un)
	local enter=(unshare --net setpriv --reuid="$user" --regid="$(id -gn "$user")" --init-groups
		--inh-caps="$new" --ambient-caps="$new")
	if as_root "${enter[@]}" true 2>/dev/null; then
		# sudo leaves the environment behind
		as_root "${enter[@]}" env PATH="$PATH" HOME="$HOME" TMPDIR="$TMPDIR" LC_ALL=C CI="${CI:-}" "$@"
	else
		as_server env "$@"
	fi
}

# The logs of the TAP tests that failed.
failed_logs() {
	local file
	for file in "$work"/tap/tmp_check/log/regress_log_*; do
		if grep -q -E '(^|\) )not ok |# Looks like' "$file" 2>/dev/null; then
			title "$(basename "$file")"
			tail -n 60 "$file"
		fi
	done
}

main
