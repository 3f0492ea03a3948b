# Locks behind PgBouncer, in each of its pool modes: what is safe, what is not (controls), and what
# is refused.
#
# The environment variable BOUNCER names PgBouncer's program.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use ClientTests;
use IPC::Run;
use PgBouncer;
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

plan(skip_all => 'BOUNCER does not say where PgBouncer is') unless $ENV{BOUNCER};

use constant {
	CLIENTS => 12,
	TRANSACTIONS => 40,    # of each client in one batch
	MOST_BATCHES => 20,
};

my $node = new_server('pgbouncer', conf => "shared_preload_libraries = 'postgres_lock'\nfsync = off\n");

$node->safe_psql('postgres', <<'END');
CREATE ROLE app LOGIN;
CREATE ROLE careful LOGIN;
GRANT pg_read_all_stats TO app, careful;
CREATE TABLE counter (value int);
GRANT ALL ON counter TO app, careful;
END

my $bouncer = PgBouncer->start(
	$node,
	roles => [ 'app', 'careful' ],
	pools => {
		four => 'pool_mode=transaction pool_size=4',
		two => 'pool_mode=transaction pool_size=2',
		one => 'pool_mode=transaction pool_size=1',
		session => 'pool_mode=session pool_size=1',
		statement => 'pool_mode=statement pool_size=1'
	});

sub connection { return $bouncer->connection(@_); }

# A client of a pool.
sub client { return session($node, extra_params => [ '-d', connection(@_) ]); }

sub visit { return $bouncer->visit(@_); }

sub console
{
	my ($command) = @_;
	my (undef, $stderr) = $bouncer->console($command);

	is($stderr, '', "PgBouncer does: $command");
	return;
}

# The query, sent to the server itself, soon answers what is expected.
sub is_soon
{
	my ($query, $expected, $name) = @_;

	ok($node->poll_query_until('postgres', $query, $expected), $name);
	return;
}

my $all_locks = "SELECT coalesce(string_agg(coalesce(key, '?'), ',' ORDER BY key), 'none') FROM pglock.locks";

sub nothing_is_held { return is_soon($all_locks, 'none', "$_[0]: nothing is held"); }

#
# Transaction pooling, transaction scope
#

# How many additions to a counter are lost by clients that first do something.
sub additions_lost
{
	my ($name, $first) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/script.sql';
	my $all = CLIENTS * TRANSACTIONS;

	append_to_file($file, <<"END");
BEGIN;
$first
SELECT value AS value FROM counter \\gset
UPDATE counter SET value = :value + 1;
COMMIT;
END
	$node->safe_psql('postgres', 'TRUNCATE counter; INSERT INTO counter VALUES (0)');
	command_like(
		[ 'pgbench', '-n', '-c', CLIENTS, '-t', TRANSACTIONS, '-f', $file, connection('four') ],
		qr{transactions actually processed: $all/$all\b}, "$name: all clients end well");
	return $all - $node->safe_psql('postgres', 'SELECT value FROM counter');
}

my $lost = 0;

foreach (1 .. MOST_BATCHES)
{
	$lost = additions_lost('control', '');
	last if $lost > 0;
}
cmp_ok($lost, '>', 0, 'control: without a lock additions are lost');
is(additions_lost('transaction scope', "SELECT pglock.acquire('counter', scope => 'transaction');"),
	0, 'transaction scope: none is lost');
is(additions_lost('slots', "SELECT pglock.acquire_slot('counter', 1, scope => 'transaction');"), 0, '... nor with the only slot');
cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'"),
	'<=', 4, '... by more clients than there are sessions');
nothing_is_held('transaction scope');

my ($holder, $waiter) = (client('four'), client('four'));

$holder->query_safe("BEGIN; SELECT pglock.acquire('order', scope => 'transaction')");
is($waiter->query_safe("BEGIN; SELECT pglock.acquire('order', timeout => '10ms', scope => 'transaction')"),
	'f', 'a timeout passes through it');
is($waiter->query_safe('SELECT 1; COMMIT'), '1', '... and the transaction goes on');
start_waiting($waiter, "BEGIN; SET LOCAL lock_timeout = '10ms'; SELECT pglock.acquire('order', scope => 'transaction')");
is(finish_waiting($waiter), '55P03', '... lock_timeout, too');
$waiter->{stderr} = '';
$waiter->query_safe('ROLLBACK');
start_waiting($waiter, "BEGIN; SELECT pglock.acquire('order', scope => 'transaction')");
wait_for_waiter($node, 'order');
$holder->query_safe('COMMIT');
is(finish_waiting($waiter), '00000', 'who waits gets the lock from another client');
$waiter->query_safe('COMMIT');

#
# Transaction pooling, session scope
#

# The control: the lock stays with a session that is anybody's.
visit('two', "SELECT pglock.acquire('stranded')");
is_soon($all_locks, 'stranded', 'control: the client has gone, its lock has not');
is( $node->safe_psql('postgres', "SELECT count(*) FROM pglock.locks JOIN pg_stat_activity USING (pid) WHERE state = 'idle'"),
	1, '... and is shown with the session that has it');
is(visit('session', "SELECT pglock.try('stranded')"), 'f', '... another session is refused');
$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM pglock.locks WHERE key = 'stranded'");
nothing_is_held('an operator ends the session');

my ($first, $second) = (client('one'), client('one'));

is($first->query_safe("SELECT pglock.acquire('both')"), 't', 'control: one client holds the lock');
is($second->query_safe("SELECT pglock.try('both')"), 't', '... and another one has it, too');
is($second->query_safe("SELECT pglock.release_all()"), '2', '... who releases it for both');
nothing_is_held('after that');

# A reset after each transaction (server_reset_query_always) drops the lock under who has it.
console('SET server_reset_query_always = 1');
is($first->query_safe("SELECT pglock.acquire('dropped')"), 't', 'control: with a reset after each transaction it is taken');
is($first->query_safe("SELECT pglock.held('dropped')"), 'f', '... and gone in the next');
console('SET server_reset_query_always = 0');

# What prevents it: a setting of the role, which sessions get when they begin.
is(visit('one', 'SHOW pglock.session_scope', 'careful'), 'on', 'the pool has a session of the role');
$node->safe_psql('postgres', 'ALTER ROLE careful SET pglock.session_scope = off');
is(visit('one', "SELECT pglock.acquire('early'), pglock.release('early')", 'careful'), 't|t',
	'... which goes on as it began');
console('RECONNECT');
foreach my $call (
	"SELECT pglock.acquire('refused')",
	"SELECT pglock.try('refused')",
	"CALL pglock.lock('refused')",
	"SELECT pglock.acquire_all('{refused,too}', '1s')",
	"SELECT pglock.acquire_slot('refused', 2)",
	"SELECT pglock.try_slot('refused', 1)",
	"CALL pglock.slot('refused', 2)",
	'SELECT pglock.acquire_raw(42)')
{
	my ($stdout, $stderr) = visit('one', $call, 'careful');

	is($stdout, '', "$call: is refused");
	like($stderr, qr/ERROR: .*session.*pglock\.session_scope.*transaction/s, '... with the way out');
}
is(visit('one', "BEGIN; SELECT pglock.acquire('allowed', scope => 'transaction'); COMMIT", 'careful'), 't',
	'transaction scope is allowed');
is(visit('one', 'SELECT pglock.release_all()', 'careful'), '0', '... and so is a release');
nothing_is_held('refused');

#
# Clients that go, and cancels
#

# A psql that runs the statements in the background, with its output in a file.
sub start_psql
{
	my ($pool, $sql) = @_;
	my $output = PostgreSQL::Test::Utils::tempdir() . '/psql.out';

	return { output => $output, process => IPC::Run::start(
		[ 'psql', '-XAtq', '-d', connection($pool), '-c', $sql ], '<', \undef, '>&', $output) };
}

$holder->query_safe("BEGIN; SELECT pglock.acquire('order', scope => 'transaction')");

my $cancelled = start_psql('four', "SELECT pglock.acquire('order', scope => 'transaction')");

wait_for_waiter($node, 'order');
$cancelled->{process}->signal('INT');
$cancelled->{process}->finish;
like(slurp_file($cancelled->{output}), qr/canceling statement due to user request/, 'a cancel passes through it');
is_soon($all_locks, 'order', '... and ends the wait');

my $killed = start_psql('four', "SELECT pglock.acquire('order', scope => 'transaction')");

wait_for_waiter($node, 'order');
$killed->{process}->kill_kill;
$holder->query_safe('COMMIT');
nothing_is_held('a client that waits is killed');

my $dying = client('four');

$dying->query_safe("BEGIN; SELECT pglock.acquire('order', scope => 'transaction')");
start_waiting($waiter, "BEGIN; SELECT pglock.acquire('order', scope => 'transaction')");
wait_for_waiter($node, 'order');
$dying->{run}->kill_kill;
is(finish_waiting($waiter), '00000', 'the holder is killed: who waits gets the lock');
$waiter->query_safe('COMMIT');

# ... and of slots
my $both = 'SELECT count(pglock.acquire_slot(\'order\', 2, scope => \'transaction\')) FROM generate_series(1, 2)';

$dying = client('four');
is($dying->query_safe("BEGIN; $both"), '2', 'a client holds both slots of a key');
start_waiting($waiter, "BEGIN; SELECT pglock.acquire_slot('order', 2, scope => 'transaction')");
wait_for_waiter($node, 'order');
$dying->{run}->kill_kill;
is(finish_waiting($waiter), '00000', '... and is killed: who waits gets one');
$waiter->query_safe('COMMIT');

# More clients than sessions: who waits for a session is turned away by PgBouncer, and holds nothing.
console('SET query_wait_timeout = 1');
$first->query_safe("BEGIN; SELECT pglock.acquire('order', scope => 'transaction')");
my (undef, $turned_away) = visit('one', "BEGIN; SELECT pglock.acquire('order', timeout => '1h', scope => 'transaction')");
like($turned_away, qr/query_wait_timeout/, 'no session is free: PgBouncer says so');
is_soon($all_locks, 'order', '... there is no second waiter');
is($first->query_safe("SELECT pglock.held('order')"), 't', '... and the lock is where it was');
$first->query_safe('COMMIT');
console('SET query_wait_timeout = 120');
nothing_is_held('turned away');

$_->quit foreach $holder, $waiter, $first, $second;

#
# Session pooling
#

my $pooled = client('session');
my $pid = $pooled->query_safe('SELECT pg_backend_pid()');

$pooled->query_safe("SELECT pglock.acquire('k' || i), pglock.acquire('k' || i, shared => true) FROM generate_series(1, 200) AS i");
is($pooled->query_safe("SELECT pglock.held('k1')"), 't', 'session pooling: the lock stays with the client');
is($node->safe_psql('postgres', "SELECT pglock.try('k1')"), 'f', '... others are refused');

my $direct = session($node);

start_waiting($direct, "SELECT pglock.acquire('k1')");
wait_for_waiter($node, 'k1');
$pooled->quit;
is(finish_waiting($direct), '00000', '... it goes with the client: who waits gets it');
$direct->query_safe("SELECT pglock.release('k1')");
nothing_is_held('session pooling');
is( visit('session', "SELECT pg_backend_pid(); SELECT count(*) FROM pglock.session_holds(); SELECT count(*) FROM pglock.locks;
		SELECT pglock.held('k1'), pglock.is_free('k1')"),
	"$pid\n0\n0\nf|t", '... and leaves nothing to the next client of its session');

# The control: it is the reset that does it.
console("SET server_reset_query = ''");
visit('session', "SELECT pglock.acquire('stranded')");
is_soon($all_locks, 'stranded', 'control: without server_reset_query the lock stays');
is(visit('session', "SELECT pglock.held('stranded')"), 't', '... and the next client has it');
visit('session', 'SELECT pglock.release_all()');
console("SET server_reset_query = 'DISCARD ALL'");

#
# Statement pooling
#

my (undef, $refused) = visit('statement', 'BEGIN');
like($refused, qr/transaction/, 'statement pooling: there are no transactions');
my ($answer, $warning) = visit('statement', "SELECT pglock.acquire('short', scope => 'transaction')");
is($answer, 't', '... transaction scope is granted');
like($warning, qr/held for this statement only/, '... for the statement, and says so');
nothing_is_held('statement pooling');
visit('statement', "SELECT pglock.acquire('stranded')");
is_soon($all_locks, 'stranded', 'control: ... session scope strands the lock');
visit('statement', 'SELECT pglock.release_all()');

#
# Prepared statements
#

my $build = "$PostgreSQL::Test::Utils::tmp_check/pooler";

make_tests('a program with the C++ client builds', $build, 'pooler');
{
	local $ENV{PGHOST} = $bouncer->host;
	local $ENV{PGPORT} = $node->port;
	local $ENV{PGUSER} = 'app';
	local $ENV{PGDATABASE} = 'two';
	run_tests("$build/pooler", '--gtest_filter=-preparing_pooler.*');
	if (PgBouncer::can_prepare())
	{
		console('SET max_prepared_statements = 100');
		run_tests("$build/pooler", '--gtest_filter=preparing_pooler.*:pooler.*lease*:pooler.*keeper*');
	}
}
nothing_is_held('the C++ client');

$direct->quit;
$bouncer->stop;
stop_and_check_log($node);
done_testing();
