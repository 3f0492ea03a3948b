#!/bin/bash
# make sanitize-test: the tests of the server with the extension built for gcc's sanitizers of addresses and of
# undefined behaviour, on a PostgreSQL that checks its own assertions; see checking.sh. That is not itself
# built for them: what they find is in the extension, or in what it gives away. Tests that build the extension for
# themselves come last, without sanitizers, so that make assert-test finds nothing more.
#
# TESTS chooses tests, as for make test.

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
# shellcheck source=checking.sh
source "$root/test/checking.sh"

not_sanitized='upgrade|two_libraries|pg_upgrade|build|lease_exclusion|lease_clock|token_clock|stopped_clock'

main() {
	begin
	need_checking_postgres
	((${#missing[@]} == 0)) || install_missing
	find_checking_postgres

	local status=0
	sort_tests
	((${#sanitized[@]} == 0)) || test_sanitized || status=1
	((${#plain[@]} == 0)) || test_plain || status=1
	return $status
}

# Says which of the tests, or of TESTS, are `sanitized`, and which `plain`.
sort_tests() {
	local name
	sanitized=()
	plain=()
	for name in ${TESTS:-$(server_tests)}; do
		if [[ $name =~ ^[0-9]+_($not_sanitized)$ ]]; then
			plain+=("$name")
		else
			sanitized+=("$name")
		fi
	done
}

test_plain() { run env TESTS="${plain[*]}" bash "$root/test/test.sh"; }

test_sanitized() {
	mkdir -m 1777 "$work/reports"
	# Whoever loads the extension must have loaded the sanitizer's library first: so all programs of the tests
	# do. A report ends a server's process like a crash, which the tests look for in its log. PostgreSQL gives
	# back no memory when a process ends: that is no leak.
	local reporting="abort_on_error=1:log_path=$work/reports/report" status=0
	run env TESTS="${sanitized[*]}" SERVER_SANITIZE=address,undefined \
		TESTS_ENVIRONMENT="LD_PRELOAD=$(sanitizer_library) ASAN_OPTIONS=$reporting:detect_leaks=0
			UBSAN_OPTIONS=$reporting:print_stacktrace=1" \
		bash "$root/test/test.sh" || status=$?
	show_reports || status=1
	return $status
}

sanitizer_library() { realpath "$(g++ -print-file-name=libasan.so)"; }

# Are there none? A report is a failure, whatever the tests said.
show_reports() {
	local file found=0
	for file in "$work"/reports/*; do
		[[ -e $file ]] || continue
		found=1
		title "$(basename "$file")"
		cat "$file"
	done
	return $found
}

main
