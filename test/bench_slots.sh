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

# What 20 clients get out of 4 slots, each for 5 ms, to what would be if handing over took no time.
throughput() {
	local ours ideal=800 ratio
	printf '%s\n' "SELECT pglock.acquire_slot('shared', 4) AS slot \\gset" '\sleep 5 ms' \
		"SELECT pglock.release_slot('shared', :slot);" >"$work/ours"
	measure "$pairs" rate_or_ideal "$work/ours" $ideal
	read -r ours _ ratio < <(median_pair)
	row '20 clients, 4 slots, 5 ms each, to the ideal' /s "$ours" $ideal "$ratio" '>= 0.9' 1.0
}

# rate_or_ideal SCRIPT|NUMBER
rate_or_ideal() { if [[ $1 == */* ]]; then tps 20 "$1"; else say "$1"; fi; }
