# What a command of the client is, by the protocol: when one fails, what it took at session scope is given
# back, and what others took that were complete is kept. And what else depends on how statements are sent.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use Protocol;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('commands', conf => "shared_preload_libraries = 'postgres_lock'");
my $client = Protocol->new($node);

$node->safe_psql('postgres', <<'END');
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE taken (key text);
CREATE FUNCTION take() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE row record;
BEGIN
	IF NEW.key = 'loop' THEN
		FOR row IN SELECT pglock.acquire(NEW.key) LOOP END LOOP;
	ELSE
		PERFORM pglock.acquire(NEW.key);
	END IF;
	RETURN NULL;
END $$;
CREATE PROCEDURE fail() LANGUAGE plpgsql AS $$ BEGIN PERFORM pglock.acquire('a'); PERFORM 1 / 0; END $$;
CREATE PROCEDURE fail_after_commit() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pglock.acquire('a');
	COMMIT;
	PERFORM pglock.acquire('b');
	ROLLBACK;
	PERFORM pglock.acquire('c');
	PERFORM 1 / 0;
END $$;
CREATE CONSTRAINT TRIGGER take AFTER INSERT ON taken DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION take();
CREATE FUNCTION volatile_check(text) RETURNS boolean LANGUAGE sql AS $$ SELECT pglock.acquire('from a domain') $$;
CREATE DOMAIN checked AS text CHECK (volatile_check(VALUE));
CREATE DOMAIN unchecked AS text;
CREATE TYPE checked_row AS (key checked);
CREATE TYPE unchecked_row AS (key unchecked, keys unchecked[]);
CREATE FUNCTION first_number(text) RETURNS integer LANGUAGE sql AS $$ SELECT 1 FROM pglock.acquire('from a domain') $$;
CREATE DOMAIN checked_number AS integer CHECK (first_number('') = 1);
CREATE TYPE checked_range AS RANGE (SUBTYPE = checked_number, SUBTYPE_OPCLASS = int4_ops);
END

# SQLSTATEs, warnings too, and the values of rows, in the order in which they came.
sub outcome
{
	return join ' ', map {
			$_->[0] =~ /[EN]/ ? $_->[2]{C}
		  : $_->[0] eq 'D' ? join(',', map { $_ // 'NULL' } @{ $_->[2] })
		  : ()
	} @_;
}

# What the client holds: as another session sees it, and as it sees it itself, which it can't in a failed
# transaction.
sub held
{
	my $holds = "SELECT coalesce(string_agg(key || depth, ' ' ORDER BY key), '') FROM pglock.locks WHERE pid = $client->{pid}";
	my $seen = $node->safe_psql('postgres', $holds);

	$client->ask('ROLLBACK') if $client->status eq 'E';
	my $held = $client->ask($holds);

	return $held eq $seen ? $held : "$held, but others see: $seen";
}

# Sends what was gathered, and says what came of it.
sub is_outcome
{
	my ($outcome, $held, $name) = @_;

	is(outcome($client->finish), $outcome, $name);
	is(held(), $held, "... held: $held");
	$client->ask('ROLLBACK');
	$client->ask('SELECT pglock.release_all()');
	$client->ask('DEALLOCATE ALL');
	return;
}

sub pipeline
{
	my @statements = @_;

	foreach my $statement (@statements)
	{
		$client->parse('', $statement)->bind('', '')->execute('');
	}
	return $client->sync;
}

#
# A statement that is fetched in portions
#

my $failing = "SELECT pglock.acquire('j' || i), 1 / (4 - i) FROM generate_series(1, 9) i";

foreach my $block ('', 'BEGIN', 'BEGIN; SAVEPOINT s')
{
	$client->ask($block) if $block;
	$client->parse('', $failing)->bind('', '')->execute('', 2);
	$client->sync if $block;
	$client->execute('', 5)->sync;
	is_outcome('t,0 t,0 t,1 22012', '', "a portal that fails in its second portion, " . ($block || 'alone'));
}
$client->parse('', "SELECT pglock.acquire('j' || i) FROM generate_series(1, 3) i")->bind('', '')->execute('', 2)->execute('', 2)->sync;
is_outcome('t t t', 'j11 j21 j31', 'one that does not');

# whatever kind of statement it is
foreach my $statement (
	"DO 'BEGIN PERFORM pglock.acquire(''a''); RAISE division_by_zero; END'",
	'CALL fail()',
	"CALL fail_after_commit()",
	"INSERT INTO taken SELECT i / 0 FROM generate_series(1, 3) i WHERE pglock.acquire('a')",
	"INSERT INTO taken SELECT i / 0 FROM generate_series(1, 3) i WHERE pglock.acquire('a') RETURNING key",
	"CREATE TABLE made AS SELECT pglock.acquire('a'), 1 / (2 - i) FROM generate_series(1, 3) i",
	"COPY (SELECT pglock.acquire('a'), 1 / (2 - i) FROM generate_series(1, 3) i) TO STDOUT")
{
	$client->parse('', $statement)->bind('', '')->execute('')->sync;
	is_outcome('22012', '', "fails: $statement");
}
$client->parse('', "DECLARE c CURSOR WITH HOLD FOR SELECT pglock.acquire('a'), 1 / (2 - i) FROM generate_series(1, 3) i")
  ->bind('', '')->execute('')->sync;
is_outcome('22012', '', 'a cursor that is to outlive its transaction, and fails as that ends');

# one that was fetched in part fails when its transaction does, since it will never be complete
sub fetch_in_part
{
	$client->parse('', "SELECT pglock.acquire('j' || i) FROM generate_series(1, 3) i")->bind('part', '')->execute('part', 2);
	return;
}

fetch_in_part();
$client->parse('wrong', 'SELECT FROM nowhere')->sync;
is_outcome('t t 42P01', '', 'one that was fetched in part, when another fails');
$client->ask('BEGIN');
fetch_in_part();
$client->sync->finish;
$client->ask('SELECT FROM nowhere');
$client->execute('part')->sync;
is_outcome('25P02', '', '... in a block, where it is fetched again');
$client->ask('BEGIN');
fetch_in_part();
$client->sync->query('ROLLBACK');
is_outcome('t t', 'j11 j21', '... but not when the client itself rolls back');

# what was bound before a savepoint outlives it
foreach my $end ('ROLLBACK TO s', 'ROLLBACK')
{
	$client->ask('BEGIN');
	fetch_in_part();
	$client->sync->query('SAVEPOINT s')->query('SELECT FROM nowhere')->finish;
	is($node->safe_psql('postgres', "SELECT count(*) FROM pglock.locks WHERE pid = $client->{pid}"),
		2, 'one that was fetched in part, when another fails after a savepoint');
	$client->query($end)->execute('part')->sync;
	is_outcome(@{ $end eq 'ROLLBACK' ? [ '34000', '' ] : [ 't', 'j11 j21 j31' ] }, "... and then $end");
}
$client->ask('BEGIN; SAVEPOINT s');
fetch_in_part();
$client->sync->query('SELECT FROM nowhere');
is_outcome('t t 42P01', '', '... which it was bound after');

# of two that are fetched by turns, each gives back its own
$client->parse('a', "SELECT pglock.acquire('k'), 1 / (2 - i) FROM generate_series(1, 9) i")
  ->parse('b', "SELECT pglock.acquire('k') FROM generate_series(1, 3)")
  ->bind('a', 'a')->bind('b', 'b')->execute('a', 1)->execute('b', 2)->execute('b', 2)->execute('a', 1)->sync;
is_outcome('t,1 t t t 22012', 'k3', 'two portals by turns: that which fails loses its own levels only');

$client->parse('a', "SELECT pglock.acquire('a' || i), 1 / (2 - i) FROM generate_series(1, 3) i")->parse('b', "SELECT pglock.acquire('b')")
  ->bind('a', 'a')->bind('b', 'b')->execute('b')->execute('a')->sync;
is_outcome('t t,1 22012', 'b1', 'one that was bound before another, and runs after it');

#
# Pipelines
#

pipeline("SELECT pglock.acquire('a')", 'SELECT 1 / 0', "SELECT pglock.acquire('b')");
is_outcome('t 22012', 'a1', 'a pipeline that fails: a statement that was complete keeps what it took');
pipeline("SELECT pglock.acquire('a')", "SELECT pglock.acquire('b'), 1 / 0");
is_outcome('t 22012', 'a1', '... the one that fails does not');
pipeline("SELECT pglock.acquire('a')", 'INSERT INTO child VALUES (1)');
is_outcome('t 23503', 'a1', 'one whose commit fails, the lock first');
pipeline('INSERT INTO child VALUES (1)', "SELECT pglock.acquire('a')");
is_outcome('t 23503', 'a1', '... the lock last');
pipeline("INSERT INTO child SELECT 1 WHERE pglock.acquire('a')");
is_outcome('23503', 'a1', '... both in one statement, which was complete');
pipeline("INSERT INTO taken VALUES ('a')", "INSERT INTO child VALUES (1)");
is_outcome('23503', '', '... what the commit itself took is given back');
pipeline("INSERT INTO taken VALUES ('loop')", "INSERT INTO child VALUES (1)");
is_outcome('23503', '', '... by a cursor, too');
pipeline("INSERT INTO taken VALUES ('a')");
is_outcome('', 'a1', '... if it fails');
pipeline('BEGIN', "SELECT pglock.acquire('a')", 'INSERT INTO child VALUES (1)', 'COMMIT');
is_outcome('t 23503', 'a1', 'a block in a pipeline whose COMMIT fails');

#
# Strings, which are one command
#

$client->query("SELECT pglock.acquire('a'); SELECT 1 / 0");
is_outcome('t 22012', '', 'a string that fails gives back what its earlier statements took');
$client->query("INSERT INTO child SELECT 1 WHERE pglock.acquire('a')");
is_outcome('23503', '', '... also when its commit fails');
$client->query("SELECT pglock.acquire('a'); INSERT INTO child VALUES (1)");
is_outcome('t 23503', '', '... of more than one statement');
$client->query("INSERT INTO taken VALUES ('a'); INSERT INTO child VALUES (1)");
is_outcome('23503', '', '... or what the commit took');

# a message that is no statement, and has no time of its own
$client->ask('BEGIN');
$client->query("SELECT pglock.acquire('a')")->close_wrongly->sync;
is_outcome('t 08P01', 'a1', 'a string that was complete keeps what it took when the next message fails');

#
# Functions that are called by the protocol
#

my %function = map { split /=/ } split /\n/,
  $client->ask("SELECT oid::regprocedure || '=' || oid FROM pg_proc WHERE proname ~ '^(pg_advisory_(un)?lock|acquire_raw)\$'");

$client->ask('BEGIN');
$client->call($function{'pglock.acquire_raw(bigint,interval,boolean,text)'}, 1, '1s', 'f', 'session')->finish;
is(levels_of(1), 1, 'a lock that such a call takes is shown at once');
$client->call($function{'pg_advisory_lock(bigint)'}, 1)->finish;
is(levels_of(1), 2, '... and that a built-in one takes it again');
$client->call($function{'pg_advisory_unlock(bigint)'}, 1)->finish;
is(levels_of(1), 1, '... and gives it back');
$client->call($function{'pg_advisory_unlock(bigint)'}, 1)->finish;
is(levels_of(1), 0, '... for good');
$client->ask('ROLLBACK');

sub levels_of
{
	my ($id) = @_;

	return $node->safe_psql('postgres', "SELECT coalesce(sum(depth), 0) FROM pglock.locks WHERE lock_id = $id");
}

#
# Transaction scope outside a block: warned of where the transaction is known to end with the statement
#

my $acquire = "SELECT pglock.acquire('a', scope => 'transaction')";

pipeline($acquire, 'SELECT 1');
is_outcome('t 1', '', 'the first of a pipeline is not warned');
pipeline($acquire);
is_outcome('25P01 t', '', 'one that Sync follows is');
$client->parse('', $acquire)->bind('', '')->execute('', 0)->flush->send;
$client->wait_for_input(60);
is(outcome(wait_for_row()), 't', 'one whose end has not come yet is not');
$client->sync->finish;
$client->query($acquire);
is_outcome('25P01 t', '', 'one of a simple query is');

sub wait_for_row
{
	my @messages;

	push @messages, $client->receive until grep { $_->[0] eq 'C' } @messages;
	return @messages;
}

#
# CALL lock ends the transaction only where nothing of the client's ends with it
#

my $holder = session($node);

# The messages that come when the lock is released, which the client has to wait for.
sub outcome_of_wait
{
	my ($key) = @_;

	$holder->query("SELECT pglock.acquire('$key')");
	$client->send;
	wait_for_waiter($node, $key);
	my $snapshot = $node->safe_psql('postgres', "SELECT backend_xmin IS NOT NULL FROM pg_stat_activity WHERE pid = $client->{pid}");
	$holder->query("SELECT pglock.release('$key')");
	my $outcome = outcome($client->finish);
	$client->ask('SELECT pglock.release_all()');
	return "$outcome, snapshot $snapshot";
}

$client->parse('', "CALL pglock.lock('a')")->bind('', '')->execute('')->sync;
is(outcome_of_wait('a'), ', snapshot f', 'alone it waits without a snapshot');
$client->parse('one', 'SELECT 1')->bind('one', 'one')->parse('', "CALL pglock.lock('a')")->bind('', '')->execute('')->execute('one')->sync;
is(outcome_of_wait('a'), '01000 1, snapshot t', 'beside a portal that was bound it does not, and says so: the portal lives');
$client->query("CALL pglock.lock('b'::checked)");
is(outcome_of_wait('b'), '01000, snapshot t', '... nor with a domain whose check may have done anything');
foreach my $key (
	"('{b}'::checked[])[1]",
	"('{b}'::text::checked[])[1]",
	"('{b}'::text[]::checked[])[1]",
	"('(b)'::checked_row).key",
	"('{(b)}'::checked_row[])[1].key",
	"(json_populate_record(NULL::checked_row, '{\"key\":\"b\"}')).key",
	"'[1,2)'::checked_range::text || 'b'",
	"'{[1,2)}'::checked_multirange::text || 'b'")
{
	my $lock = $client->ask("SELECT $key");

	$client->ask('SELECT pglock.release_all()');
	$client->query("CALL pglock.lock($key)");
	is(outcome_of_wait($lock), '01000, snapshot t', "... as in $key");
}
$client->parse('', 'CALL pglock.lock($1::checked)')->bind('', '', 'b')->execute('')->sync;
is(outcome_of_wait('b'), '01000, snapshot t', '... and of a parameter');
$client->ask("CREATE FUNCTION check_for_transaction(text) RETURNS boolean LANGUAGE sql AS \$\$ SELECT pglock.acquire('t', scope => 'transaction') \$\$");
$client->ask('CREATE DOMAIN checked_for_transaction AS text CHECK (check_for_transaction(VALUE))');
$client->parse('', 'SELECT $1::checked_for_transaction')->bind('closed', '', 'b')->close_portal('closed')
  ->parse('', "CALL pglock.lock('b')")->bind('', '')->execute('')->parse('', "SELECT pglock.held('t')")->bind('', '')->execute('')->sync;
is(outcome_of_wait('b'), '01000 t, snapshot t', '... and of another portal: what it locked for the transaction is kept');
foreach my $key ("'b'::unchecked", "('(b,{})'::unchecked_row).key", "('{b}'::unchecked[])[1]")
{
	$client->query("CALL pglock.lock($key)");
	is(outcome_of_wait('b'), ', snapshot f', "one without checks does not matter: $key");
}
$node->safe_psql('postgres', 'REVOKE EXECUTE ON FUNCTION pg_cursor() FROM PUBLIC; CREATE ROLE other; GRANT other TO CURRENT_USER');
$client->ask('SET ROLE other');
$client->parse('', "CALL pglock.lock('a')")->bind('', '')->execute('')->sync;
is(outcome_of_wait('a'), ', snapshot f', 'a user who may not look at cursors can wait');
is($client->ask('SELECT current_user'), 'other', '... and stays who it is');
$client->ask('RESET ROLE');
is(held(), '', 'nothing is held in the end');

end_session($holder);
stop_and_check_log($node);
done_testing();
