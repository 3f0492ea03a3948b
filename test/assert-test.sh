#!/bin/bash
# make assert-test: the tests of the server on a PostgreSQL that checks its own assertions; see checking.sh.

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
# shellcheck source=checking.sh
source "$root/test/checking.sh"

main() {
	begin
	need_checking_postgres
	((${#missing[@]} == 0)) || install_missing
	find_checking_postgres
	run env TESTS="${TESTS:-$(server_tests)}" bash "$root/test/test.sh"
}

main
