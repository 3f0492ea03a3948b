# shellcheck shell=bash
# The part of make bench that is about slots: to be sourced by bench.sh.
#
# shellcheck disable=SC2154

slots() {
	printf '\n%-52s %10s %10s %7s %8s %7s\n' 'slots' ours without ratio bar goal
	taken_and_released 'acquire_slot + release_slot, 1 slot, to try + release' 1 1.5
	hold_by "SELECT count(pglock.acquire_slot('counted', 99)) FROM generate_series(1, 99)" 99 \
		taken_and_released 'the same, 100 slots, of which 1 is free' 100 30
	throughput
}

# taken_and_released CASE SLOTS BAR
taken_and_released() {
	local ours builtin ratio
	measure "$pairs" ms "SELECT count(*) FROM names WHERE pglock.release_slot('counted', pglock.acquire_slot('counted', $2))" \
		"SELECT count(*) FROM names WHERE pglock.try('counted') AND pglock.release('counted')"
	read -r ours builtin ratio < <(median_pair)
	row "$1" ms "$ours" "$builtin" "$ratio" "<= $3" -
}

# What 20 clients get out of 4 slots, each for 5 ms, to the ideal: 4 clients, who hand nothing over.
throughput() {
	local ours ideal ratio
	printf '%s\n' "SELECT pglock.acquire_slot('shared', 4) AS slot \\gset" '\sleep 5 ms' \
		"SELECT pglock.release_slot('shared', :slot);" >"$work/ours"
	measure "$pairs" slot_rate 20 4
	read -r ours ideal ratio < <(median_pair)
	row '4 slots, 5 ms each, 20 clients to 4' /s "$ours" "$ideal" "$ratio" '>= 0.9' 1.0
}

# slot_rate CLIENTS
slot_rate() { tps "$1" "$work/ours"; }
