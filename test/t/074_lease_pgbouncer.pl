# Leases behind PgBouncer, where more clients than there are sessions take, renew, check and release them over
# whatever session they get.
#
# The environment variable BOUNCER names PgBouncer's program.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run;
use PgBouncer;
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

plan(skip_all => 'BOUNCER does not say where PgBouncer is') unless $ENV{BOUNCER};

use constant {
	CLIENTS => 50,
	SESSIONS => 2,
	KEYS => 5,
	SLOTS => 3,
	TRANSACTIONS => 20,    # of each client in one batch
	MOST_BATCHES => 20,
};

my $node = new_server('lease_pgbouncer', conf => "fsync = off\n");

$node->safe_psql('postgres', <<'END');
CREATE ROLE app LOGIN;
CREATE TABLE counter (key int PRIMARY KEY, value int);
-- over which sessions a lease was taken and checked, and whether it could be renewed
CREATE TABLE written (key int, taken_by int, checked_by int, renewed boolean);
CREATE TABLE released (released boolean);
GRANT ALL ON counter, written, released TO app;
END

my $bouncer = PgBouncer->start(
	$node,
	roles => ['app'],
	pools => { map { $_ => "pool_mode=$_ pool_size=@{[ SESSIONS ]}" } 'transaction', 'statement' });

# How many additions are lost, of how many, by clients that take a lease in that way, read a counter, and write it.
sub additions_lost
{
	my ($pool, $name, $take, $write) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/script.sql';
	my $all = CLIENTS * TRANSACTIONS;

	append_to_file($file, <<"END");
\\set key random(1, @{[ KEYS ]})
$take
\\if :token > 0
SELECT value AS value, pglock.renew_lease(:key, :token) AS renewed FROM counter WHERE key = :key \\gset
$write
INSERT INTO released SELECT pglock.release_lease(:key, :token);
\\endif
END
	$node->safe_psql('postgres',
		"TRUNCATE counter, written, released; INSERT INTO counter SELECT i, 0 FROM generate_series(1, @{[ KEYS ]}) AS i");
	command_like(
		[ 'pgbench', '-n', '-c', CLIENTS, '-t', TRANSACTIONS, '-f', $file, $bouncer->connection($pool) ],
		qr{transactions actually processed: $all/$all\b}, "$name: all clients end well");
	return split /\|/, $node->safe_psql('postgres', 'SELECT (SELECT count(*) FROM written) - sum(value), (SELECT count(*) FROM written) FROM counter');
}

my $acquire = "SELECT coalesce(pglock.acquire_lease(:key, ttl => '10min', timeout => '5ms'), 0) AS token, pg_backend_pid() AS taken_by \\gset";
my $write = 'UPDATE counter SET value = :value + 1 WHERE key = :key;';
my $note = "INSERT INTO written VALUES (:key, :taken_by, pg_backend_pid(), ':renewed');";
my %ways = (
	transaction => "BEGIN;\nSELECT pglock.check_lease(:key, :token);\n$write\n$note\nCOMMIT;",
	# without a block the statement has to do both
	statement => "WITH held AS MATERIALIZED (SELECT pglock.check_lease(:key, :token)), "
	  . "written AS (INSERT INTO written SELECT :key, :taken_by, pg_backend_pid(), ':renewed') "
	  . "UPDATE counter SET value = :value + 1 FROM held WHERE key = :key;");

my ($lost, $additions);

foreach (1 .. MOST_BATCHES)
{
	($lost, $additions) = additions_lost('transaction', 'control', 'SELECT 1 AS token, pg_backend_pid() AS taken_by \gset', "BEGIN;\n$write\n$note\nCOMMIT;");
	last if $lost > 0;
}
cmp_ok($lost, '>', 0, "control: without a lease additions are lost, of $additions");

foreach my $pool (sort keys %ways)
{
	($lost, $additions) = additions_lost($pool, "$pool pooling", $acquire, $ways{$pool});
	is($lost, 0, "$pool pooling: none of $additions additions is lost");
	cmp_ok($additions, '>=', KEYS, '... there were some');
	is( $node->safe_psql('postgres', 'SELECT bool_and(renewed), (SELECT bool_and(released) AND count(*) = (SELECT count(*) FROM written) FROM released) FROM written'),
		't|t', '... each lease was renewed and released');
	is($node->safe_psql('postgres', 'SELECT count(DISTINCT taken_by), bool_or(taken_by <> checked_by) FROM written'),
		SESSIONS . '|t', '... over whatever session there was');
	is( $node->safe_psql('postgres', "SELECT (SELECT count(*) FROM pglock.leases), (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')"),
		'0|0', '... and nothing is left behind');
}

#
# Slots
#

$node->safe_psql('postgres', <<'END');
CREATE TABLE inside (token bigint);
CREATE TABLE counted (count int);
GRANT ALL ON inside, counted TO app;
END

# How many were at most where those are whom `take` has given a token. Each comes, counts and goes over any session.
sub most_inside
{
	my ($pool, $name, $take) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/slots.sql';
	my $all = CLIENTS * TRANSACTIONS;

	append_to_file($file, <<"END");
SELECT coalesce($take, 0) AS token \\gset
\\if :token > 0
INSERT INTO inside VALUES (:token);
INSERT INTO counted SELECT count(*) FROM inside;
DELETE FROM inside WHERE token = :token;
INSERT INTO released SELECT pglock.release_lease('slots', :token);
\\endif
END
	$node->safe_psql('postgres', 'TRUNCATE inside, counted, released');
	command_like(
		[ 'pgbench', '-n', '-c', CLIENTS, '-t', TRANSACTIONS, '-f', $file, $bouncer->connection($pool) ],
		qr{transactions actually processed: $all/$all\b}, "$name: all clients end well");
	return $node->safe_psql('postgres', 'SELECT max(count) FROM counted');
}

cmp_ok(most_inside('transaction', 'control', '(random() * 1e9)::bigint'), '>', SLOTS, 'control: without a lease more are inside');
foreach my $pool (sort keys %ways)
{
	is(most_inside($pool, "$pool pooling", "pglock.acquire_lease('slots', '10min', '5ms', slots => @{[ SLOTS ]})"),
		SLOTS, "$pool pooling: as many as there are slots are inside, and no more");
	is( $node->safe_psql('postgres', "SELECT bool_and(released), (SELECT count(*) FROM pglock.leases),
			(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') FROM released"),
		't|0|0', '... each lease was released, and nothing is left behind');
}

# A psql that runs the statement in the background, with its output in a file.
sub start_psql
{
	my ($pool, $sql) = @_;
	my $output = PostgreSQL::Test::Utils::tempdir() . '/psql.out';

	return { output => $output, process => IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $bouncer->connection($pool), '-c', $sql ], '<', \undef, '>&', $output) };
}

sub finish_psql
{
	my ($psql) = @_;

	$psql->{process}->finish;
	return slurp_file($psql->{output}) =~ s/\n\z//r;
}

#
# Clients that go
#

foreach my $pool (sort keys %ways)
{
	my $token = $bouncer->visit($pool, "SELECT pglock.acquire_lease('gone', '500ms')");

	is($bouncer->visit($pool, "SELECT pglock.renew_lease('gone', $token), pglock.holds_lease('gone', $token)"), 't|t',
		"$pool pooling: another connection of the client has the lease, too");
	cmp_ok($bouncer->visit($pool, "SELECT pglock.acquire_lease('gone', '10min', '1min')"), '>', $token, '... which ends though nobody releases it');

	my $waiter = start_psql($pool, "SELECT pglock.acquire_lease('gone')");

	ok($node->poll_query_until('postgres', 'SELECT waiters = 1 FROM pglock.leases'), '... a client waits for it');
	$waiter->{process}->kill_kill;
	is($bouncer->visit($pool, "SELECT pglock.revoke_lease('gone')"), '1', '... and is killed, and an operator revokes the lease');
	like($bouncer->visit($pool, "CALL pglock.lease('gone', timeout => '1min')"), qr/^\d{16}$/, '... which goes to the next, and not to the dead');
	is($bouncer->visit($pool, "SELECT pglock.revoke_lease('gone')"), '1', '... once');
}

#
# Those who wait have sessions, too
#

my $token = $bouncer->visit('transaction', "SELECT pglock.acquire_lease('busy', '10min')");
my @waiters = map { start_psql('transaction', "SELECT pglock.acquire_lease('busy', '10min')") } 1 .. SESSIONS;

ok($node->poll_query_until('postgres', "SELECT waiters = @{[ SESSIONS ]} FROM pglock.leases"), 'all sessions of a pool wait for a lease');

my $release = start_psql('transaction', "SELECT pglock.release_lease('busy', $token)");
my $queue = '';

foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	$queue = $bouncer->console('SHOW POOLS');
	last if $queue =~ /^transaction\|app\|2\|1\|/m;
	select undef, undef, undef, 0.1;
}
like($queue, qr/^transaction\|app\|2\|1\|/m, '... and the holder that would release it queues for one of them');
is($node->safe_psql('postgres', "SELECT pglock.revoke_lease('busy')"), '1', '... until an operator revokes the lease');
is(finish_psql($release), 'f', '... then it has nothing to release');
is($node->safe_psql('postgres', "SELECT pglock.revoke_lease('busy')"), '1', '... revoked again');
like(finish_psql($_), qr/^\d{16}$/, '... who waited gets the lease') foreach @waiters;

my (undef, $refused) = $bouncer->visit('statement', 'BEGIN');
like($refused, qr/transaction/, 'statement pooling: there are no blocks');

$bouncer->stop;
stop_and_check_log($node);
done_testing();
