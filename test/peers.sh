#!/bin/bash
# make peers: the locks of this project beside PostgreSQL's own, and those of Redis, MariaDB and etcd. All of them
# do the same work, by turns, over TCP on this machine; see peers/peers.cpp. What was measured goes into
# docs/plots, with plots, and as tables into docs/performance.md; see peers/report.py.
#
# ROUNDS says how many turns each of them has, SECONDS_PER_RUN how long a turn takes, and NETWORKS how many microseconds
# the network takes each way. OUTPUT=folder puts everything there, and leaves docs/ as it is.

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"

seconds=${SECONDS_PER_RUN:-0.5}
rounds=${ROUNDS:-5}
read -ra networks <<<"${NETWORKS:-0 100 1000}"
output=$(realpath -m "${OUTPUT:-$root/docs/plots}")

main() {
	begin
	need_peers
	prepare
	build_and_install
	build_peers
	start_peers
	compare
	report
}

need_peers() {
	need libpq-dev has_package libpq
	need libhiredis-dev has_package hiredis
	need libmariadb-dev has_package libmariadb
	need libcurl4-openssl-dev has_package libcurl
	need libssl-dev has_package libcrypto
	need libasio-dev test -f /usr/include/asio.hpp
	need libcli11-dev test -f /usr/include/CLI/CLI.hpp
	need nlohmann-json3-dev test -f /usr/include/nlohmann/json.hpp
	need pkg-config has pkg-config
	need curl has curl
	need redis-server has redis-server
	need mariadb-server-core test -x /usr/sbin/mariadbd
	need mariadb-client-core has my_print_defaults
	need etcd-server has etcd
	need python3 test -x /usr/bin/python3
	need gnuplot-nox has gnuplot
}

build_peers() {
	say 'building what measures'
	quietly make -s -j"$(nproc)" -C "$src/test/peers" BUILD="$work/peers"
}

#
# The servers
#

declare -A port

# As their documentation has them for locks, or as they are by default. What they write they write to the same disk.
start_peers() {
	say 'starting the servers'
	choose_ports postgres redis redis-aof mariadb etcd etcd-peer
	start_server "listen_addresses = '127.0.0.1'" "port = ${port[postgres]}" 'fsync = on' 'max_connections = 150' \
		"shared_preload_libraries = 'postgres_lock'"
	export PGPORT=${port[postgres]}
	query -c 'CREATE EXTENSION postgres_lock' \
		-c 'CREATE TABLE counters (name text PRIMARY KEY, value bigint NOT NULL) WITH (fillfactor = 50)' \
		-c "INSERT INTO counters VALUES ('order:42', 0)" >/dev/null
	as_server mkdir "$work/redis" "$work/redis-aof" "$work/etcd"
	start_redis redis no
	start_redis redis-aof yes
	start_mariadb
	start_etcd
}

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

# start NAME COMMAND...: in the background; lib.sh ends it with the command
start() {
	as_server "${@:2}" </dev/null &>"$work/$1.log" &
}

# await NAME COMMAND...: until it succeeds
await() {
	local i
	for ((i = 0; i < 300; i++)); do
		! "${@:2}" &>/dev/null || return 0
		sleep 0.1
	done
	tail -n 20 "$work/$1.log" >&2
	die "$1 does not start"
}

# start_redis NAME APPENDONLY: without snapshots. A log of what is written is flushed each second, as is its default.
start_redis() {
	start "$1" redis-server --bind 127.0.0.1 --port "${port[$1]}" --dir "$work/$1" --save '' --appendonly "$2"
	await "$1" redis-cli -p "${port[$1]}" ping
}

start_mariadb() {
	local data=$work/mariadb
	quietly as_server mariadb-install-db --no-defaults --datadir="$data" --skip-test-db \
		--auth-root-authentication-method=normal --skip-name-resolve
	say "CREATE USER peers@'127.0.0.1';" >"$work/mariadb.sql"
	chmod a+r "$work/mariadb.sql"
	start mariadb /usr/sbin/mariadbd --no-defaults --datadir="$data" --bind-address=127.0.0.1 --port="${port[mariadb]}" \
		--socket="$work/mariadb.sock" --pid-file="$work/mariadb.pid" --skip-name-resolve --init-file="$work/mariadb.sql"
	await mariadb mariadb --no-defaults -h 127.0.0.1 -P "${port[mariadb]}" -u peers -e 'SELECT 1'
}

start_etcd() {
	local clients=http://127.0.0.1:${port[etcd]} peers=http://127.0.0.1:${port[etcd-peer]}
	start etcd etcd --data-dir "$work/etcd" --listen-client-urls "$clients" --advertise-client-urls "$clients" \
		--listen-peer-urls "$peers" --initial-advertise-peer-urls "$peers" --initial-cluster "default=$peers"
	await etcd curl -sf "$clients/health"
}

#
# What comes of it
#

compare() {
	local name options=()
	for name in postgres redis redis-aof mariadb etcd; do
		options+=(--server "$name" "${port[$name]}")
	done
	run "$work/peers/peers" "${options[@]}" --network "${networks[@]}" --seconds "$seconds" --rounds "$rounds" \
		--about date "$(date -u +%F)" --about machine "$(machine)" --about system "$(system)" \
		--about PostgreSQL "$(query -c 'SHOW server_version')" \
		--about Redis "$(redis-server --version | sed -E 's/.* v=([^ ]*).*/\1/')" \
		--about MariaDB "$(/usr/sbin/mariadbd --no-defaults --version | sed -E 's/.* Ver ([^ ]*).*/\1/')" \
		--about etcd "$(etcd --version | sed -n 's/^etcd Version: //p')" \
		--output "$work/peers.json"
}

machine() {
	say "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | sort -u | head -n 1), $(nproc) CPUs," \
		"$(awk '/^MemTotal/ { printf "%.0f GB", $2 / 1048576 }' /proc/meminfo)," \
		"data on $(stat -f -c %T "$work")"
}

system() { say "$(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release), Linux $(uname -r)"; }

report() {
	local tables=(--document "$root/docs/performance.md")
	[[ -z ${OUTPUT:-} ]] || tables=(--tables "$output/peers.md")
	mkdir -p "$output"
	cp "$work/peers.json" "$output"
	run /usr/bin/python3 "$src/test/peers/report.py" "$output" "${tables[@]}"
	say "the results are in $output"
}

main
