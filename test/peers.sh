#!/bin/bash
# make peers: the locks of this project beside PostgreSQL's own, and those of Redis, MariaDB and etcd. All of them
# do the same work, by turns, over TCP on this machine; see peers/peers.cpp. What was measured goes into
# docs/plots, with plots, and as tables into docs/performance.md.
#
# ROUNDS, SECONDS_PER_RUN and OUTPUT are those of measuring.sh. NETWORKS says how many microseconds the network takes
# each way.

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
# shellcheck source=measuring.sh
source "$root/test/measuring.sh"

read -ra networks <<<"${NETWORKS:-0 100 1000}"

main() {
	begin
	need_measuring
	need_peers
	prepare
	build_and_install
	build_measuring peers
	start_peers
	compare
	report peers
}

need_peers() {
	need libhiredis-dev has_package hiredis
	need libmariadb-dev has_package libmariadb
	need libcurl4-openssl-dev has_package libcurl
	need libssl-dev has_package libcrypto
	need libasio-dev test -f /usr/include/asio.hpp
	need curl has curl
	need redis-server has redis-server
	need mariadb-server-core test -x /usr/sbin/mariadbd
	need mariadb-client-core has my_print_defaults
	need etcd-server has etcd
}

#
# The servers
#

# As their documentation has them for locks, or as they are by default. What they write they write to the same disk.
start_peers() {
	say 'starting the servers'
	choose_ports postgres redis redis-aof mariadb etcd etcd-peer
	start_measured 'max_connections = 150'
	as_server mkdir "$work/redis" "$work/redis-aof" "$work/etcd"
	start_redis redis no
	start_redis redis-aof yes
	start_mariadb
	start_etcd
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
# The comparison
#

compare() {
	local name options=()
	for name in postgres redis redis-aof mariadb etcd; do
		options+=(--server "$name" "${port[$name]}")
	done
	measure peers "${options[@]}" --network "${networks[@]}" \
		--about Redis "$(redis-server --version | sed -E 's/.* v=([^ ]*).*/\1/')" \
		--about MariaDB "$(/usr/sbin/mariadbd --no-defaults --version | sed -E 's/.* Ver ([^ ]*).*/\1/')" \
		--about etcd "$(etcd --version | sed -n 's/^etcd Version: //p')"
}

main
