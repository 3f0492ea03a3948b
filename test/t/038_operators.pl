# The section "For operators" of docs/operations.md: each of its recipes answers rightly, for a member of the roles
# that it names, while sessions of another role hold locks and wait for them.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Docs;
use PgLock;
use Test::More;

my $section = section('docs/operations.md', 'For operators');
# the recipes by the bold words before them
my %recipes = $section =~ /^\*\*([^*]+?)[.:]?\*\*(?:(?!^```).)*?^```sql\n(.*?)^```$/msg;

is_deeply(
	[ sort keys %recipes ],
	[
		'End the holder of `order:42`',
		'End the lease of `nightly report`',
		'How long waits take',
		'Leases',
		'Prepared transactions that hold a lock',
		'Slots',
		'Stranded locks',
		'The longest held',
		'The most contended keys',
		'What all sessions wait for',
		'Who blocks whom',
		'Who holds `order:42`, since when, and who waits for it'
	],
	'its recipes are those that are tested here');
is(scalar(() = $section =~ /^```sql$/mg), scalar keys %recipes, '... and there is no other block');

my $node = new_server('operators', conf => <<'END');
shared_preload_libraries = 'postgres_lock'
max_prepared_transactions = 1
END
my %sessions;
my %pids;
my %begun;    # when each session began to hold or wait: not before, not after

$node->safe_psql('postgres', <<'END');
CREATE ROLE app LOGIN;
CREATE ROLE ops LOGIN IN ROLE pg_monitor, pg_signal_backend;
END

# What an operator gets who runs it.
sub as_operator
{
	my ($sql) = @_;
	my ($status, $stdout, $stderr) = $node->psql('postgres', $sql, extra_params => [ '-U', 'ops' ]);

	is("$status:$stderr", '0:', 'runs: ' . ($sql =~ /^(.*)$/m)[0]);
	return $stdout;
}

# Of what a recipe answers, these columns, or expressions over them.
sub answer
{
	my ($recipe, $columns) = @_;

	return as_operator("SELECT $columns FROM (\n" . $recipe =~ s/;\s*\z//r . "\n) AS recipe");
}

sub server_time
{
	return $node->safe_psql('postgres', 'SELECT clock_timestamp()');
}

# A session of the application by that name.
sub begin_session
{
	my ($name) = @_;
	my $session = session($node, extra_params => [ '-U', 'app' ]);

	$sessions{$name} = $session;
	$pids{$name} = $session->query("SET application_name = $name; SELECT pg_backend_pid()");
	return $session;
}

sub hold
{
	my ($name, $sql) = @_;
	my $session = begin_session($name);
	my $before = server_time();

	$session->query_safe($sql);
	$begun{$name}{hold} = [ $before, server_time() ];
	return;
}

sub wait_for
{
	my ($name, $sql) = @_;
	my $before = server_time();

	start_waiting($sessions{$name} // begin_session($name), $sql);
	# the lock manager notes the time just after the wait has begun
	$node->poll_query_until('postgres',
		"SELECT count(waiting_since) = 1 FROM pglock.locks WHERE pid = $pids{$name} AND NOT granted")
	  or die "$name does not wait";
	$begun{$name}{wait} = [ $before, server_time() ];
	return;
}

# The condition that a duration till now began when the session began to hold or wait.
sub since
{
	my ($name, $what, $duration) = @_;
	my ($before, $after) = @{ $begun{$name}{$what} };

	return "now() - $duration BETWEEN '$before' AND '$after'";
}

# Those who hold, in this order: some idle, one in a transaction, one that is a prepared transaction,
# and one that took its lock by number
hold('payments', "SELECT pglock.acquire('order:42')");
hold('reports', "BEGIN; SELECT pglock.acquire('report', shared => true, scope => 'transaction')");
hold('audit', "SELECT pglock.acquire('report', shared => true)");
hold('leader', "SELECT pglock.acquire('leader')");
hold('prepared',
	"BEGIN; SELECT pglock.acquire('batch', scope => 'transaction'); PREPARE TRANSACTION 'batch'");
hold('legacy', 'SELECT pg_advisory_lock(7)');

# those who are idle since before then count as stranded
my $idle_since = server_time();

$sessions{leader}->query('SELECT 1');

# Those who wait: a queue, readers and writers, and one that holds a lock
wait_for('refunds', "CALL pglock.lock('order:42')");
wait_for('invoices', "SELECT pglock.acquire('order:42', timeout => '1h')");
wait_for('nightly', "SELECT pglock.acquire('report')");
wait_for('late', "SELECT pglock.acquire('report', shared => true)");
wait_for('audit', "SELECT pglock.acquire('batch')");

# one key is contended
begin_session('job')->query("SELECT pglock.acquire('leader', timeout => '100ms') FROM generate_series(1, 3)");

my $recipe = $recipes{'Who blocks whom'};

my @waiters = split /\n/, answer($recipe, 'waiter_name, waiter, key, holder_name, holder');

is( join("\n", sort @waiters),
	join("\n", sort
		  "audit|$pids{audit}|batch||",
		"invoices|$pids{invoices}|order:42|payments|$pids{payments}",
		"late|$pids{late}|report|audit|$pids{audit}",
		"late|$pids{late}|report|reports|$pids{reports}",
		"nightly|$pids{nightly}|report|audit|$pids{audit}",
		"nightly|$pids{nightly}|report|reports|$pids{reports}",
		"refunds|$pids{refunds}|order:42|payments|$pids{payments}"),
	'every waiter is shown with those who hold its lock');
is(join(' ', map { /^(\w+)/ } @waiters), 'refunds invoices nightly nightly late late audit',
	'... those first who wait longest');
foreach my $pair (
	[ 'refunds', 'payments' ], [ 'invoices', 'payments' ], [ 'nightly', 'reports' ], [ 'late', 'audit' ])
{
	my ($waiter, $holder) = @$pair;

	is( answer($recipe, 'bool_and(' . since($waiter, 'wait', 'waited') . ' AND ' . since($holder, 'hold', 'held') .
			  ") FILTER (WHERE waiter_name = '$waiter' AND holder_name = '$holder')"),
		't', "... for how long $waiter waits, and $holder holds");
}

$recipe = $recipes{'The longest held'};

my @held = split /\n/, answer($recipe, 'key, mode, scope, pid, usename, application_name');

is( join("\n", @held[ 0 .. 3 ]),
	join("\n",
		"order:42|exclusive|session|$pids{payments}|app|payments",
		"report|shared|transaction|$pids{reports}|app|reports",
		"report|shared|session|$pids{audit}|app|audit",
		"leader|exclusive|session|$pids{leader}|app|leader"),
	'what is held is shown, the longest held first');
is( join("\n", sort @held[ 4 .. $#held ]),
	join("\n", sort 'batch|exclusive||||', "|exclusive||$pids{legacy}|app|legacy"),
	'... and last what is held since nobody knows when');
is(answer($recipe, 'bool_and(' . since('payments', 'hold', 'held') . ") FILTER (WHERE key = 'order:42')"),
	't', '... and for how long');

$recipe = $recipes{'Stranded locks'};
is(as_operator($recipe), '', 'nobody has been idle for ten minutes');
ok($recipe =~ s/now\(\) - interval '10 min'/'$idle_since'::timestamptz/, '... but if it is less:');
is( join("\n", sort split /\n/, answer($recipe, 'key, mode, pid, usename, application_name')),
	join("\n", sort
		  "order:42|exclusive|$pids{payments}|app|payments",
		"|exclusive|$pids{legacy}|app|legacy"),
	'... those are shown who are idle, and not those who work, wait, or are in a transaction');
is(answer($recipe, "bool_and(now() - idle BETWEEN '$begun{payments}{hold}[0]' AND '$idle_since')"),
	't', '... and for how long');

$recipe = $recipes{'Who holds `order:42`, since when, and who waits for it'};
is( join("\n", sort split /\n/,
		answer($recipe, 'pid, application_name, held_since IS NOT NULL, waiting_since IS NOT NULL')),
	join("\n", sort
		  "$pids{payments}|payments|t|f",
		"$pids{refunds}|refunds|f|t",
		"$pids{invoices}|invoices|f|t"),
	'one key: its holder and its waiters');
is( answer($recipe, "bool_and(held_since BETWEEN '$begun{payments}{hold}[0]' AND '$begun{payments}{hold}[1]')"),
	't', '... and since when it is held');

# a session that holds it in both modes and scopes is ended once
$recipe = $recipes{'End the holder of `order:42`'};
$sessions{payments}->query_safe(
	"SELECT pglock.acquire('order:42', shared => true), pglock.acquire('invoice:7')");
is(as_operator($recipe), "$pids{payments}|payments|t", 'the holder is ended');
wait_for_session_end($node, $pids{payments});
is(finish_waiting($sessions{refunds}), '00000', '... and the first waiter gets the lock');
is(as_operator("SELECT pglock.is_free('invoice:7')"), 't', '... and the other lock of the holder is free');
is(as_operator($recipe), "$pids{refunds}|refunds|t", 'the next holder is ended');
wait_for_session_end($node, $pids{refunds});
is(finish_waiting($sessions{invoices}), '00000', '... and the next waiter gets the lock');

# who asks and holds the lock is not ended
is(as_operator("SELECT pglock.acquire('mine');\n" . $recipe =~ s/order:42/mine/r), 't', 'the session that asks is not ended');

# a holder that is none of the sessions
$recipe =~ s/order:42/batch/;
is(as_operator($recipe), '||', 'a prepared transaction cannot be ended so');
is( answer($recipes{'Prepared transactions that hold a lock'}, "lock_id = pglock.lock_id('batch'), gid, owner"),
	't|batch|app', '... but is found by its name');
$node->safe_psql('postgres', "ROLLBACK PREPARED 'batch'");
is(finish_waiting($sessions{audit}), '00000', '... but by ROLLBACK PREPARED');

$recipe = $recipes{'The most contended keys'};
is( answer($recipe, "key, lock_id = pglock.lock_id(key), waits, timeouts, deadlocks, cancels,
		max_wait_time >= 100 AND total_wait_time >= 300 AND total_wait_time >= max_wait_time AND stats_since < now()")
	  =~ s/^(?!leader).*\n?//mgr =~ s/\n\z//r,
	'leader|t|3|3|0|0|t', 'a key that was waited for in vain');
is(answer($recipe, "string_agg(key || waits, ',' ORDER BY key)"), 'batch1,leader3,order:422',
	'... and all whose waits have ended');
is( answer($recipe, 'array_agg(total_wait_time) = array_agg(total_wait_time ORDER BY total_wait_time DESC)'),
	't', '... those waited for longest first');

my $answered = answer($recipes{'How long waits take'}, "string_agg(concat_ws(' ', key, waits,
	most >= half AND half >= 1 AND most IN (SELECT le FROM pglock.contention_histogram)), ',' ORDER BY key)");

is($answered, 'batch 1 t,leader 3 t,order:42 2 t', 'how long waits took: all of them');
is( answer($recipes{'How long waits take'}, "half >= 100, most >= 100, key") =~ s/^(?!.*leader).*\n?//mgr =~ s/\n\z//r,
	't|t|leader', '... each at least 100 ms');

# slots, of which one is waited for
my $exporter = begin_session('exporter');
my $next = begin_session('next');

$exporter->query_safe("SELECT pglock.acquire_slot('exports', 2) FROM generate_series(1, 2)");
start_waiting($next, "SELECT pglock.acquire_slot('exports', 2)");
wait_for_waiter($node, 'exports');
is(as_operator($recipes{'Slots'}), "exports|2|1|{\"1: $pids{exporter}\",\"2: $pids{exporter}\"}",
	'slots: how many are held and waited for, and by whom');
$exporter->query_safe('SELECT pglock.release_all()');
is(finish_waiting($next), '00000', '... and who waits gets one');

# leases, those first that are nearest to their end
my $leaseholder = begin_session('leaseholder');
my $token = $leaseholder->query("SELECT pglock.acquire_lease('nightly report', '1 hour', holder => 'node a')");

$leaseholder->query_safe("SELECT pglock.acquire_lease('long', '1 year')");
$recipe = $recipes{'Leases'};
is( answer($recipe, "string_agg(concat_ws(' ', key, slot, holder, usename, ttl, waiters), ',')"),
	'nightly report 1 node a app 01:00:00 0,long 1 app 8640:00:00 0', 'leases, and who holds them');
is( answer($recipe, "bool_and(held BETWEEN '0' AND '1 hour' AND time_left BETWEEN '59 min' AND ttl)"), 't', '... for how long');
is(as_operator($recipes{'End the lease of `nightly report`'}), '1', 'a lease is ended');
is($leaseholder->query("SELECT pglock.renew_lease('nightly report', $token)"), 'f', '... as its holder finds out');

# those first for whom others wait
end_session(delete @sessions{qw(reports audit nightly late)}, values %sessions);

# a lock, and the last slot and a lease, which one waits for behind another
my @queue = map { begin_session("waiter$_") } 1 .. 5;

$next->query_safe('SELECT pglock.release_all()');
$exporter->query_safe("SELECT pglock.acquire('busy'), pglock.acquire_lease('busy'), pglock.acquire_slot('exports', 2), pglock.acquire_slot('exports', 2)");
start_waiting($queue[0], "SELECT pglock.acquire('busy')");
start_waiting($queue[$_], "SELECT pglock.acquire_slot('exports', 2)") foreach 1, 2;
start_waiting($queue[$_], "SELECT pglock.acquire_lease('busy')") foreach 3, 4;
ok( $node->poll_query_until('postgres',
		"WITH waits AS (" . $recipes{'What all sessions wait for'} =~ s/;\s*$//r . ")
		 SELECT string_agg(concat_ws(' ', wait_event_type, wait_event, count), ',' ORDER BY wait_event_type, wait_event) FROM waits",
		$node->pg_version >= 17 ? 'Extension PglockLease 1,Extension PglockSlot 1,Lock advisory 3' : 'Extension Extension 2,Lock advisory 3'),
	'what sessions wait for');
# who is ended while it waits, is at once
$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'");
end_session($exporter, $next, $leaseholder, @queue);
stop_and_check_log($node);
done_testing();
