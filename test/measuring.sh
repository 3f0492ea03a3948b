# shellcheck shell=bash disable=SC2154
# What the commands share that measure with test/peers, and make tables and plots of it. To be sourced after lib.sh.
#
# ROUNDS says how many turns each competitor has, and SECONDS_PER_RUN how long a turn takes. OUTPUT=folder puts the results
# there; otherwise they go into docs/.

# shellcheck source-path=SCRIPTDIR source=idling.sh
source "$root/test/idling.sh"

output=$(realpath -m "${OUTPUT:-$root/docs/plots}")

need_measuring() {
	need libpq-dev has_package libpq
	need libcli11-dev test -f /usr/include/CLI/CLI.hpp
	need nlohmann-json3-dev test -f /usr/include/nlohmann/json.hpp
	need pkg-config has pkg-config
	need python3 test -x /usr/bin/python3
	need gnuplot-nox has gnuplot
}

build_measuring() {
	say 'building what measures'
	quietly make -s -j"$(nproc)" -C "$src/test/peers" BUILD="$work/peers" "$1"
}

declare -A port

# choose_ports NAME...: that nobody uses
choose_ports() {
	local name ports
	read -ra ports < <(/usr/bin/python3 -c 'import socket, sys
probes = [socket.create_server(("127.0.0.1", 0)) for _ in sys.argv[1:]]
print(*(probe.getsockname()[1] for probe in probes))' "$@")
	for name; do
		port[$name]=${ports[0]}
		ports=("${ports[@]:1}")
	done
}

# start_measured LINE...: PostgreSQL as it is by default, but for these lines, with the row that clients update
start_measured() {
	start_server "listen_addresses = '127.0.0.1'" "port = ${port[postgres]}" 'fsync = on' \
		"shared_preload_libraries = 'postgres_lock'" "$@"
	export PGPORT=${port[postgres]}
	query -c 'CREATE EXTENSION postgres_lock' \
		-c 'CREATE TABLE counters (name text PRIMARY KEY, value bigint NOT NULL) WITH (fillfactor = 50)' \
		-c "INSERT INTO counters VALUES ('order:42', 0)" >/dev/null
}

# measure PROGRAM OPTION...: into PROGRAM.json
measure() {
	warn_of_idling
	run "$work/peers/$1" --seconds "${SECONDS_PER_RUN:-0.5}" --rounds "${ROUNDS:-5}" --about date "$(date -u +%F)" \
		--about machine "$(machine)" --about system "$(system)" \
		--about PostgreSQL "$(query -c 'SHOW server_version')" --output "$work/$1.json" "${@:2}"
}

machine() {
	local us idle=
	! us=$(polled_us) || idle=" that poll for $us µs when idle"
	say "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | sort -u | head -n 1), $(nproc) CPUs$idle," \
		"$(awk '/^MemTotal/ { printf "%.0f GB", $2 / 1048576 }' /proc/meminfo)," \
		"data on $(df --output=fstype "$work" | tail -n 1)"
}

system() { say "$(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release), Linux $(uname -r)"; }

# report PROGRAM: tables and plots
report() {
	local document=(--document "$root/docs/performance.md")
	[[ -z ${OUTPUT:-} ]] || document=()
	mkdir -p "$output"
	cp "$work/$1.json" "$output"
	run /usr/bin/python3 -B "$src/test/peers/report_$1.py" "$output" "${document[@]}"
	say "the results are in $output"
}
