# Leases amid what else PostgreSQL does: cursors that fail, parallel queries, several tries at once, and a standby
# that compares what it replays.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use Test::More;

my $node = new_server('lease_surroundings', init => { allows_streaming => 1 }, conf => <<'END_OF_CONF');
wal_consistency_checking = 'all'
autovacuum = off
fsync = off
END_OF_CONF
my ($a, $b, $c) = map { session($node) } 1 .. 3;

sub ask { return scalar $_[0]->query($_[1]); }

# Runs the block's first FETCH, and one that fails in a savepoint that is then rolled back to.
sub fail_in_cursor
{
	my ($session, $call) = @_;

	$session->query(<<"END_OF_SQL");
BEGIN;
DECLARE c CURSOR FOR SELECT pglock.$call, 1 / (2 - i) FROM generate_series(1, 2) AS i;
FETCH c;
SAVEPOINT s;
FETCH c;
ROLLBACK TO s;
END_OF_SQL
	like($session->{stderr}, qr/division by zero/, "a cursor with $call fails in a savepoint");
	$session->{stderr} = '';
	return;
}

#
# Cursors
#

my $token = ask($a, "SELECT pglock.try_lease('checked', '1ms')");

fail_in_cursor($a, "check_lease('checked', $token)");
is(ask($b, "SELECT pglock.try_lease('checked')"), '', '... what it has checked before, nobody takes');
ask($a, 'COMMIT');
isnt(ask($b, "SELECT pglock.try_lease('checked')"), '', '... before the end of the block');

fail_in_cursor($a, "try_lease('taken' || i, '1ms')");
is(ask($b, "SELECT pglock.try_lease('taken1')"), '', '... what it has taken before, nobody takes');
ask($a, 'COMMIT');
isnt(ask($b, "SELECT pglock.try_lease('taken1')"), '', '... before it has expired and the block has ended');

fail_in_cursor($a, "acquire('lock' || i, scope => 'transaction')");
is(ask($a, "SELECT pglock.held('lock1'), pglock.held('lock2')"), 't|f', '... the lock that it has taken before is held');
is(ask($b, "SELECT pglock.try('lock1')"), 'f', '... so that nobody else gets it');
ask($a, 'COMMIT');

#
# Parallel queries
#

is( ask($a, <<'END_OF_SQL'), '1|t', 'the view of the leases can be joined with what is read in parallel');
CREATE TABLE numbers AS SELECT generate_series(1, 1000) AS n;
BEGIN;
SET LOCAL parallel_setup_cost = 0;
SET LOCAL parallel_tuple_cost = 0;
SET LOCAL min_parallel_table_scan_size = 0;
SELECT count(*), max(n) = 1000 FROM (SELECT max(n) AS n FROM numbers) AS most, pglock.leases WHERE key = 'checked';
COMMIT;
END_OF_SQL

#
# Tries at once. Both are held up where they look for a free slot.
#

ask($c, 'BEGIN; ALTER MATERIALIZED VIEW pglock.lease_rows OWNER TO CURRENT_USER');
start_waiting($_, "SELECT 'token ' || pglock.try_lease('slots', slots => 2)") foreach $a, $b;

my $are_held_up = $node->poll_query_until('postgres', <<'END_OF_SQL');
SELECT count(*) = 2 FROM pg_stat_activity WHERE query LIKE '%try_lease(''slots''%' AND pid <> pg_backend_pid()
	AND (state = 'idle' OR wait_event_type = 'Lock')
END_OF_SQL

ok($are_held_up, 'two look for a free slot at once');
ask($c, 'ROLLBACK');
finish_waiting($_) foreach $a, $b;
is(ask($c, "SELECT count(*) FROM pglock.leases WHERE key = 'slots'"), '2', '... both get one');

#
# A wait without a snapshot, which has to read the catalogs meanwhile
#

$token = ask($a, "SELECT pglock.try_lease('called', '1h')");
start_waiting($b, "CALL pglock.lease('called')");

my $waiter = "FROM pg_stat_activity WHERE query LIKE 'CALL pglock.lease%'";

$node->poll_query_until('postgres', "SELECT wait_event_type = 'Extension' $waiter") or die 'nobody waits';
ask($c, 'ALTER MATERIALIZED VIEW pglock.lease_rows SET (autovacuum_enabled = off)');
ask($a, "BEGIN; SELECT pglock.check_lease('called', $token)");
ask($c, "SELECT pglock.renew_lease('called', $token, '1ms')");
wait_for_waiter($node);
is(ask($c, "SELECT backend_xmin IS NULL $waiter"), 't', 'CALL lease waits without a snapshot for whoever checks the lease');
ask($a, 'COMMIT');
is(finish_waiting($b), '00000', '... and then has it');

#
# A standby that compares each page with that of the primary
#

$node->backup('backup');

my $standby = PostgreSQL::Test::Cluster->new('lease_comparing');

$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
foreach my $i (1 .. 3)
{
	$token = ask($a, "SELECT pglock.try_lease('replayed', '1h')");
	# the first to look notes in the page that the row was committed
	is(ask($b, "SELECT pglock.holds_lease('replayed', $token), pglock.renew_lease('replayed', $token), pglock.release_lease('replayed', $token)"),
		't|t|t', "a lease is renewed and released, $i");
}
$node->wait_for_catchup($standby, 'replay');
is($standby->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 't', 'a standby that compares the pages has replayed it all');

end_session($a, $b, $c);
stop_and_check_log($standby);
stop_and_check_log($node);
done_testing();
