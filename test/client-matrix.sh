#!/bin/bash
# make client-matrix: the C++ client with the compilers and libraries of newer Debians, each in a chroot: all of
# it compiles with g++ and clang, and what clang has made passes its tests, with a server and PgBouncer of that Debian.
#
# KEEP=folder keeps the chroots there, for the next run. SUITES="trixie" tests that only. COMPILED="forky" only
# compiles there, by g++: in a chroot with nothing else, which takes a quarter of the time; the suites that are
# tested are then compiled by clang alone. COMPILED="" leaves it at that.

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
# shellcheck source=chroot.sh
source "$root/test/chroot.sh"

# each with the version of PostgreSQL that it has: libpqxx 7.10 and 8, Asio 1.30 and later
suites=(trixie forky)
declare -A postgres=([trixie]=17 [forky]=18)
# what the client and its tests are compiled with
libraries=(make cmake pkgconf libpq-dev libpqxx-dev libasio-dev libgtest-dev libssl-dev)

main() {
	local suite status=0
	[[ -z ${KEEP:-} ]] || KEEP=$(realpath -m "$KEEP")
	begin
	need_chroot
	((${#missing[@]} == 0)) || install_missing
	copy_sources
	for suite in ${SUITES:-${suites[@]}}; do
		test_suite "$suite" || status=1
	done
	for suite in ${COMPILED:-}; do
		compile_suite "$suite" || status=1
	done
	return $status
}

# test_suite SUITE
test_suite() {
	local suite=$1 start=$SECONDS status=0
	enter_suite "$suite" "client-$suite" g++ clang "${libraries[@]}" libipc-run-perl \
		"postgresql"{,-server-dev}"-${postgres[$suite]}"
	without_llvm "$chroot"
	in_sources clang++ --version | head -n 1
	[[ -v COMPILED ]] || compile || status=1
	say 'testing with clang'
	# debugging information would take a tenth of the time
	run in_sources env ${CI:+CI="$CI"} TESTS='050_client 062_pgbouncer' CXX=clang++ CXXFLAGS=-O0 \
		PG_CONFIG="/usr/lib/postgresql/${postgres[$suite]}/bin/pg_config" bash test/test.sh || status=1
	say "$suite: $((SECONDS - start)) seconds"
	return $status
}

# compile_suite SUITE
compile_suite() {
	local suite=$1 start=$SECONDS status=0
	enter_suite "$suite" "compile-$suite" g++ "${libraries[@]}"
	compile || status=1
	say "$suite: $((SECONDS - start)) seconds"
	return $status
}

# enter_suite SUITE CHROOT PACKAGES...
enter_suite() {
	local suite=$1
	title "$suite"
	chroot=${KEEP:-$work/chroots}/$2
	find_chroot "$suite" "${@:3}"
	rm -rf "${chroot:?}/tmp/sources"
	cp -r "$src" "$chroot/tmp/sources"
	in_sources dpkg-query -W libasio-dev libpq-dev libpqxx-dev
	in_sources g++ --version | head -n 1
}

compile() {
	say 'compiling with g++'
	# nothing is run, so nothing is made
	run in_sources make -s -j"$(nproc)" -C test/client CXXFLAGS=-fsyntax-only objects
}

in_sources() { in_chroot "$chroot" sh -c 'cd /tmp/sources && "$@"' sh "$@"; }

# find_chroot SUITE PACKAGES...
find_chroot() {
	local suite=$1
	shift
	if [[ -e $chroot/complete ]]; then
		say "using the chroot in $chroot"
		return
	fi
	say "making a chroot in $chroot"
	new_system "$suite" "$chroot"
	without_servers "$chroot"
	quietly install_in_chroot "$chroot" "$@"
	touch "$chroot/complete"
}

main
