# shellcheck shell=bash
# The part of make bench that is about leases: to be sourced by bench.sh.
#
# shellcheck disable=SC2154

leases() {
	printf '\n%-52s %10s %10s %7s %8s %7s\n' 'leases' ours without ratio bar goal
	checks
	statement_beside_leases
	renewals
	query -o /dev/null -c 'ALTER SYSTEM SET fsync = on' -c 'SELECT pg_reload_conf()'
	flushes
	beside_etcd 1 1.3
	beside_etcd 4 3.5
	query -o /dev/null -c 'ALTER SYSTEM RESET fsync' -c 'SELECT pg_reload_conf()' \
		-c 'CREATE TABLE handed (got numeric, gave numeric)'
	hand_overs 10 0.5 1.5
	hand_overs 10 0.99 3
	hand_overs 100 0.5 2
	hand_overs 100 0.99 3
	old_snapshot
}

checks() {
	local ours builtin ratio token
	token=$(query -c "SELECT pglock.acquire_lease('checked', '1 day')")
	measure "$pairs" ms "SELECT count(pglock.check_lease('checked', $token)) FROM names" \
		"SELECT count(*) FROM names WHERE pglock.try('checked') AND pglock.release('checked')"
	read -r ours builtin ratio < <(median_pair)
	row 'check_lease, 200,000 times, to try + release' ms "$ours" "$builtin" "$ratio" '<= 2.5' -
}

# Those who use no leases pay nothing for them.
statement_beside_leases() {
	query -o /dev/null -c "SELECT count(pglock.acquire_lease('lease:' || n, '1 day')) FROM generate_series(1, 10000) n"
	statement 'the same, beside 10,000 leases'
}

# cycle KEY: a script of pgbench
cycle() {
	printf '%s\n' "SELECT pglock.acquire_lease($1) AS token \\gset" "SELECT pglock.release_lease($1, :token);"
}

# How often the log is flushed to the disk for a lease that is acquired and released.
flushes() {
	local before after cycles=500
	cycle "'flushed'" >"$work/cycle"
	before=$(synced)
	pgbench -n -M prepared -c 1 -t "$cycles" -f "$work/cycle" &>"$work/pgbench" || die "pgbench failed: $(cat "$work/pgbench")"
	after=$(synced)
	row 'flushes of the log, 500 leases' '' $((after - before)) "$cycles" "$(quotient $((after - before)) "$cycles")" '<= 1.1' 1.0
}

synced() {
	# a session reports what it has done when it ends
	query -o /dev/null -c 'SELECT pg_stat_force_next_flush()' -c 'SELECT pg_sleep(0.5)'
	if (($(query -c 'SHOW server_version_num') >= 180000)); then
		query -c "SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal' AND backend_type = 'client backend'"
	else
		query -c 'SELECT wal_sync FROM pg_stat_wal'
	fi
}

quotient() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f\n", a / b }'; }

# What a renewal leaves behind, while somebody has an old snapshot.
renewals() {
	local token before size bytes count=100000
	token=$(query -c "SELECT pglock.acquire_lease('renewed', '1 day')")
	hold_snapshot
	query -o /dev/null -c CHECKPOINT
	before=$(query -c "SELECT pg_relation_size('pglock.lease_rows') || ' ' || pg_current_wal_insert_lsn()")
	query -o /dev/null -c "SELECT count(pglock.renew_lease('renewed', $token)) FROM generate_series(1, $count)"
	read -r size bytes < <(query -c "SELECT pg_relation_size('pglock.lease_rows') - ${before%% *} || ' ' ||
		round((pg_current_wal_insert_lsn() - '${before##* }') / $count)")
	end_snapshot
	row 'log for a renewal, bytes' '' "$bytes" - - '<= 100' -
	row 'growth of the table by 100,000 renewals, bytes' '' "$size" - - 0 0
}

hold_snapshot() {
	coproc snapshot { psql -X -q -A -t 2>&1; }
	say 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT txid_current();' >&"${snapshot[1]}"
	read -r _ <&"${snapshot[0]}"
}

end_snapshot() {
	say '\q' >&"${snapshot[1]}"
	# shellcheck disable=SC2154
	wait "$snapshot_PID"
}

# hand_overs WAITERS PERCENTILE BAR: from before a release until the next in the queue has an answer
hand_overs() {
	local ours builtin ratio percent
	percent=$(awk "BEGIN { print 100 * $2 }")
	measure "$pairs" "hand_over $(($1 + 1)) $2" "SELECT pglock.acquire_lease('contended') AS token
		SELECT pglock.release_lease('contended', :token);" "SELECT pglock.acquire('contended') AS token
		SELECT pglock.release('contended');"
	read -r ours builtin ratio < <(median_pair)
	row "handing over a lease, $1 waiters, to a lock, p$percent" ms "$ours" "$builtin" "$ratio" "<= $3" -
}

# hand_over CLIENTS PERCENTILE STATEMENTS: that take and give back, a line each
hand_over() {
	local now="SELECT extract(epoch FROM clock_timestamp()) * 1000 AS"
	query -c 'TRUNCATE handed'
	printf '%s\n' "$(sed -n 1p <<<"$3") \\gset" "$now got \\gset" '\sleep 1 ms' "$now gave \\gset" \
		"$(sed -n 2p <<<"$3")" 'INSERT INTO handed VALUES (:got, :gave);' >"$work/cycle"
	pgbench -n -c "$1" -j 2 -T "$seconds" -f "$work/cycle" &>"$work/pgbench" || die "pgbench failed: $(cat "$work/pgbench")"
	query -c "SELECT round(percentile_cont($2) WITHIN GROUP (ORDER BY got - before)::numeric, 3)
		FROM (SELECT got, lag(gave) OVER (ORDER BY got) AS before FROM handed) AS pairs"
}

# How fast leases of one key follow each other while an old snapshot keeps all dead rows: the end to the beginning.
old_snapshot() {
	local first last
	cycle "'hot'" >"$work/cycle"
	hold_snapshot
	pgbench -n -M prepared -c 1 -T 25 --progress=1 -f "$work/cycle" &>"$work/pgbench" || die "pgbench failed: $(cat "$work/pgbench")"
	end_snapshot
	read -r first last < <(awk '/^progress:/ { tps[++n] = $4 }
		END { for (i = 1; i <= 5; i++) { a += tps[i]; b += tps[n + 1 - i] } print int(a / 5), int(b / 5) }' "$work/pgbench")
	row 'one key for 25 s, old snapshot: end to beginning' /s "$last" "$first" "$(quotient "$last" "$first")" '>= 0.8' 1.0
}

#
# etcd, over its JSON gateway, with a disk that both wait for
#

etcd_port=23790

# beside_etcd CLIENTS BAR: each with a key of its own
beside_etcd() {
	local ours theirs ratio
	if ! start_etcd; then
		row "acquire + release to etcd, $1 client(s)" '' - - - "not here" -
		return
	fi
	cycle "'own:' || :client_id" >"$work/ours"
	measure "$pairs" "rate_of $1" "$work/ours" etcd
	read -r ours theirs ratio < <(median_pair)
	row "lease, to etcd's grant + lock + unlock, $1 client(s)" /s "$ours" "$theirs" "$ratio" ">= $2" -
	stop_etcd
}

# rate_of CLIENTS SCRIPT|etcd
rate_of() {
	if [[ $2 == etcd ]]; then
		etcd_rate "$1"
	else
		tps "$1" "$2"
	fi
}

start_etcd() {
	has etcd >/dev/null || return 1
	etcd --data-dir "$work/etcd" --listen-client-urls "http://127.0.0.1:$etcd_port" \
		--advertise-client-urls "http://127.0.0.1:$etcd_port" --listen-peer-urls "http://127.0.0.1:$((etcd_port + 1))" \
		--initial-advertise-peer-urls "http://127.0.0.1:$((etcd_port + 1))" \
		--initial-cluster "default=http://127.0.0.1:$((etcd_port + 1))" &>"$work/etcd.log" &
	etcd_pid=$!
	local i
	for ((i = 0; i < 100; i++)); do
		! curl -sf "http://127.0.0.1:$etcd_port/health" >/dev/null || return 0
		sleep 0.1
	done
	die "etcd does not start: $(tail -3 "$work/etcd.log")"
}

stop_etcd() {
	kill "$etcd_pid"
	wait "$etcd_pid" 2>/dev/null || true
	rm -rf "${work:?}/etcd"
}

# etcd_rate CLIENTS: cycles in a second, each client over one connection
etcd_rate() {
	local i begin cycles=200 started=()
	for ((i = 1; i <= $1; i++)); do
		etcd_requests "$i" "$cycles" >"$work/etcd.$i"
	done
	begin=$(date +%s%N)
	for ((i = 1; i <= $1; i++)); do
		curl -K "$work/etcd.$i" >"$work/etcd.$i.answers" &
		started+=($!)
	done
	wait "${started[@]}" || die 'etcd has refused a request'
	awk -v cycles=$(($1 * cycles)) -v ns=$(($(date +%s%N) - begin)) 'BEGIN { printf "%d\n", cycles * 1e9 / ns }'
}

# etcd_requests CLIENT CYCLES: a configuration of curl. The lease's id is ours to choose, and the lock's key is
# its name and that.
etcd_requests() {
	local i id name="own:$1" url="http://127.0.0.1:$etcd_port/v3"
	say 'silent'
	for ((i = 0; i < $2; i++)); do
		id=$(($1 * 1000000000 + RANDOM * 30000 + i + 1))
		request "$url/lease/grant" "{\"ID\": \"$id\", \"TTL\": \"30\"}"
		request "$url/lock/lock" "{\"name\": \"$(base64 <<<"$name")\", \"lease\": \"$id\"}"
		request "$url/lock/unlock" "{\"key\": \"$(printf '%s\n/%x' "$name" "$id" | base64 -w 0)\"}"
	done
}

request() { printf 'next\nfail\nurl = "%s"\ndata = "%s"\n' "$1" "${2//\"/\\\"}"; }
