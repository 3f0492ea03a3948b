# CALL pglock.lock() waits without a snapshot, and never commits what is the caller's.
#
# The control shows what a waiter with a snapshot does: CREATE INDEX CONCURRENTLY hangs.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('snapshot', conf => "autovacuum = off\n");
$node->safe_psql('postgres', 'CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n');

my $holder = session($node);
my $waiter = session($node);
$holder->query_safe("SELECT pglock.acquire('k')");

sub xmin_of_waiter
{
	return $node->safe_psql('postgres',
		q{SELECT coalesce(backend_xmin::text, 'none') FROM pg_stat_activity
		  WHERE pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)});
}

# How many dead rows VACUUM could not remove
sub dead_rows_kept
{
	$node->safe_psql('postgres', 'DELETE FROM t WHERE n IN (SELECT n FROM t LIMIT 100)');
	my ($status, $out, $err) = $node->psql('postgres', 'VACUUM (VERBOSE) t');
	return $err =~ /(\d+) are dead but not yet removable/ ? $1 : "unknown: $err";
}

# Without a snapshot
start_waiting($waiter, "CALL pglock.lock('k')");
wait_for_waiter($node, 'k');
is(xmin_of_waiter(), 'none', 'CALL lock waits without a snapshot');
is(dead_rows_kept(), 0, 'VACUUM removes dead rows meanwhile');
is($node->psql('postgres', 'CREATE INDEX CONCURRENTLY t_n ON t (n)'),
	0, 'CREATE INDEX CONCURRENTLY finishes meanwhile');
$holder->query_safe("SELECT pglock.release('k')");
is(finish_waiting($waiter), '00000', 'the waiter gets the lock');
is($waiter->query_safe("SELECT pglock.held('k')"), 't', 'and holds it');
$waiter->query_safe("SELECT pglock.release('k')");

# The control
$holder->query_safe("SELECT pglock.acquire('k')");
start_waiting($waiter, "SELECT pg_advisory_lock(pglock.lock_id('k'))");
wait_for_waiter($node, 'k');
isnt(xmin_of_waiter(), 'none', 'pg_advisory_lock() waits with a snapshot');
isnt(dead_rows_kept(), 0, 'VACUUM can not remove dead rows');
my $index = session($node);
start_waiting($index, 'CREATE INDEX CONCURRENTLY t_n_2 ON t (n)');
ok( $node->poll_query_until('postgres',
		q{SELECT count(*) = 1 FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for old%'}),
	'CREATE INDEX CONCURRENTLY hangs');
$holder->query_safe("SELECT pglock.release('k')");
finish_waiting($waiter);
is(finish_waiting($index), '00000', 'until the waiter is done');
$waiter->query_safe('SELECT pg_advisory_unlock_all()');

# Nothing of the caller's is committed, also when the procedure has to wait: `way` is how the
# statements are sent.
$node->safe_psql('postgres', 'CREATE TABLE work (way text)');

sub is_not_committed
{
	my ($way, $run) = @_;

	$holder->query_safe("SELECT pglock.acquire('k')");
	$run->();
	is($node->safe_psql('postgres', "SELECT count(*) FROM work WHERE way = '$way'"),
		0, "$way: nothing is committed");
	return;
}

# The statements run in a session while the lock is held, which is let go when they wait for it
sub run_waiting
{
	my ($session, $sql) = @_;

	start_waiting($session, $sql);
	wait_for_waiter($node, 'k');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM work'), 0, 'nor while it waits');
	$holder->query_safe("SELECT pglock.release('k')");
	finish_waiting($session);
	$session->query('ROLLBACK');
	$session->query("SELECT pglock.release_all()");
	return;
}

is_not_committed('block',
	sub { run_waiting($waiter, q{BEGIN; INSERT INTO work VALUES ('block'); CALL pglock.lock('k')}) });
is_not_committed(
	'string',
	sub { run_waiting($waiter, q{INSERT INTO work VALUES ('string')\; CALL pglock.lock('k')\; SELECT 1/0}) }
);
is_not_committed(
	'DO',
	sub {
		run_waiting($waiter,
			q{DO 'BEGIN INSERT INTO work VALUES (''DO''); CALL pglock.lock(''k''); PERFORM 1/0; END'});
	});
$node->safe_psql('postgres', <<'END');
CREATE FUNCTION note(way text) RETURNS text LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO work VALUES (way); RETURN 'k'; END $$;
END
is_not_committed('argument',
	sub { run_waiting($waiter, q{CALL pglock.lock(note('argument'))\; SELECT 1/0}) });

# A pipeline, by pgbench: the protocol commits it as a whole
sub run_pipeline
{
	my ($file, $script) = @_;
	my $path = "$PostgreSQL::Test::Utils::tmp_check/$file";

	append_to_file($path, $script);
	my $pgbench = IPC::Run::start(
		[
			'pgbench', '-n', '-M', 'extended', '-t', '1', '-f', $path, $node->connstr('postgres')
		],
		'>', \my $out, '2>', \my $err);
	wait_for_waiter($node, 'k');
	$holder->query_safe("SELECT pglock.release('k')");
	$pgbench->finish;
	return $out . $err;
}

is_not_committed(
	'pipeline',
	sub {
		like(
			run_pipeline(
				'pipeline', <<'END'),
\startpipeline
INSERT INTO work VALUES ('pipeline');
CALL pglock.lock('k');
SELECT 1/0 FROM pg_class;
\endpipeline
END
			qr/waiting for lock "k" with a snapshot[^\0]*division by zero/,
			'a pipeline that fails after CALL lock, which warns');
	});

# What the transaction had locked stays locked while a nested CALL waits
$waiter->query('ROLLBACK');
$holder->query_safe("SELECT pglock.acquire('k')");
start_waiting($waiter, <<'END');
DO $$ BEGIN
	PERFORM pglock.acquire('mine', scope => 'transaction');
	LOCK TABLE work IN EXCLUSIVE MODE;
	CALL pglock.lock('k');
	ASSERT NOT pglock.is_free('mine');
	ASSERT EXISTS (SELECT FROM pg_locks WHERE relation = 'work'::regclass AND mode = 'ExclusiveLock');
END $$
END
wait_for_waiter($node, 'k');
is($node->safe_psql('postgres', "SELECT pglock.try('mine')"),
	'f', 'a transaction lock is still held while a nested CALL waits');
is($node->safe_psql('postgres',
		q{SELECT count(*) FROM pg_locks WHERE relation = 'work'::regclass AND mode = 'ExclusiveLock'}),
	1, 'and a lock on a table');
$holder->query_safe("SELECT pglock.release('k')");
is(finish_waiting($waiter), '00000', 'and both are after it');

end_session($holder, $waiter, $index);
stop_and_check_log($node);
done_testing();
