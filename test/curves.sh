#!/bin/bash
# make curves: how the cost of a lock depends on how much else there is, with the built-in functions beside; see
# peers/curves.cpp. What was measured goes into docs/plots, with a plot, and as tables into docs/performance.md.
#
# ROUNDS, SECONDS_PER_RUN and OUTPUT are those of measuring.sh. LIMIT says to which number the curves go.

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
# shellcheck source=measuring.sh
source "$root/test/measuring.sh"

main() {
	begin
	need_measuring
	prepare
	build_and_install
	build_measuring curves
	choose_ports postgres
	# room for 100,000 locks more than once: a session that ends may still have some
	start_measured 'max_connections = 600' 'max_locks_per_transaction = 600'
	measure curves --port "${port[postgres]}" --limit "${LIMIT:-100000}"
	report curves
}

main
