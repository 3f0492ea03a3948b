# When the lock table is full a call fails, says what to do about it, and keeps nothing.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

# about (max_connections + background workers) * max_locks_per_transaction locks, and some slack
my $node = new_server('full', conf => <<'END');
max_locks_per_transaction = 10
max_connections = 10
max_worker_processes = 1
max_wal_senders = 0
autovacuum = off
END

my $filler = session($node);
my $session = session($node);
my $held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";

# Takes locks of such names until there is no room, and stops: the command itself catches the error, so it
# keeps those it took before. `first`: what it does first.
sub fill
{
	my ($name, $first) = @_;

	$first //= '';
	$filler->query(<<"END");
DO \$\$
BEGIN
	$first
	FOR i IN 1..1000000 LOOP
		PERFORM pglock.acquire('$name' || i);
	END LOOP;
EXCEPTION WHEN out_of_memory THEN
END \$\$
END
	return $filler->query($held . ' AND pid = pg_backend_pid()');
}

sub sqlstate_and_errors
{
	my ($sql) = @_;

	$session->{stderr} = '';
	my $output = $session->query("$sql;\n\\echo SQLSTATE :SQLSTATE");
	my ($state) = $output =~ /SQLSTATE (\w+)/;
	return ($state, $session->{stderr});
}

# what is looked up once in a session needs locks, too
$session->query("$held; SELECT pglock.try('warm'), pglock.release('warm'), pglock.held('k'), pglock.release_all(), pg_backend_pid()");
$session->query("SELECT pglock.acquire('own')");

# A statement that fails keeps none of what it took, however much that was.
my ($state, $errors) = sqlstate_and_errors(
	"SELECT count(pglock.acquire('k' || i)) FROM generate_series(1, 1000000) i");
is($state, '53200', 'a statement fails when the lock table is full');
like($errors, qr/ERROR: .*out of shared memory/, '... for want of memory');
like($errors, qr/HINT: .*max_locks_per_transaction/, '... and says what to do about it');
like($errors, qr/CONTEXT: .*while acquiring lock "k\d+"/, '... and at which lock');
is($node->safe_psql('postgres', $held), '1', '... and keeps nothing it took');
is($session->query("SELECT pglock.held('own'), pglock.held('k1'), (SELECT count(*) FROM pglock.session_holds())"),
	't|f|1', '... the books agree');

# Full for all calls. (A login needs a lock, too: from here on old sessions look.)
my $fillers = fill('filler');

cmp_ok($fillers, '>', 50, "the table is full of $fillers locks");

my $before = $filler->query($held);

# There may be a little room left, as the end of a command gives some back: so each asks for many.
foreach my $call (
	"SELECT pglock.acquire('n' || i) FROM generate_series(1, 1000) i",
	"SELECT pglock.acquire('n' || i, '1s', true) FROM generate_series(1, 1000) i",
	"SELECT pglock.try('n' || i) FROM generate_series(1, 1000) i",
	"SELECT pglock.acquire_raw(i) FROM generate_series(1, 1000) i",
	"SELECT pglock.acquire_all(array_agg('n' || i)) FROM generate_series(1, 1000) i",
	"SELECT pglock.acquire_all(array_agg('n' || i), '1h', scope => 'transaction') FROM generate_series(1, 1000) i",
	"BEGIN\\; SELECT pglock.acquire('n' || i, scope => 'transaction') FROM generate_series(1, 1000) i\\; COMMIT",
	"DO \$\$ BEGIN FOR i IN 1..1000 LOOP CALL pglock.lock('n' || i); END LOOP; END \$\$",
	"SELECT pglock.acquire_slot('n' || i, 1) FROM generate_series(1, 1000) i",
	"SELECT pglock.acquire_slot('n', 1000, '1s') FROM generate_series(1, 1000) i",
	"SELECT pglock.try_slot('n' || i, 3, 'transaction') FROM generate_series(1, 1000) i",
	"DO \$\$ DECLARE s int; BEGIN FOR i IN 1..1000 LOOP CALL pglock.slot('n' || i, 2, NULL, 'session', s); END LOOP; END \$\$")
{
	($state, $errors) = sqlstate_and_errors($call);
	$session->query('ROLLBACK');
	is($state, '53200', "full: $call");
	like($errors, qr/HINT: .*max_locks_per_transaction/, '... and the hint');
	is($filler->query($held), $before, '... and nothing newly held');
}

# Within a command that catches the error: only the failing call is undone.
is( $session->query(<<"END"), '0 more, held: f', 'caught: a failing acquire_all keeps nothing');
DO \$\$
DECLARE
	before int := (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory');
BEGIN
	BEGIN
		PERFORM pglock.acquire_all(array_agg('n' || i)) FROM generate_series(1, 1000) i;
		RAISE 'it should have failed';
	EXCEPTION WHEN out_of_memory THEN
	END;
	-- (a write would need a lock of its own)
	PERFORM set_config('test.result', format('%s more, held: %s',
		(SELECT count(*) - before FROM pg_locks WHERE locktype = 'advisory'),
		(SELECT bool_or(pglock.held('n' || i)) FROM generate_series(1, 1000) i)), false);
END \$\$;
SELECT current_setting('test.result');
END

# It may catch many of them, of different locks and of one.
is( $session->query(<<"END"), '1002', 'caught: many calls that fail');
DO \$\$
DECLARE
	failed int := 0;
	key text;
BEGIN
	FOR key IN SELECT 'n' || least(i, 1000) FROM generate_series(1, 1002) i LOOP
		BEGIN
			PERFORM pglock.acquire(key);
		EXCEPTION WHEN out_of_memory THEN
			failed := failed + 1;
		END;
	END LOOP;
	PERFORM set_config('test.result', failed::text, false);
END \$\$;
SELECT current_setting('test.result');
END
is($session->query('SELECT string_agg(key, NULL) FROM pglock.session_holds()'), 'own', '... leave nothing in the books');

# Whoever waits for a slot may find no room for its lock when one is free.
is($filler->query('SELECT pglock.release_all()'), $fillers, 'there is room for a moment');
foreach (1 .. 100)
{
	is($filler->query("SELECT pglock.acquire_slot('waited for', 2), pglock.acquire_slot('waited for', 2) IS NOT NULL") =~ /^\d\|t$/, 1,
		'both slots are taken');
	start_waiting($session, "SELECT pglock.acquire_slot('waited for', 2)");
	wait_for_waiter($node, 'waited for');
	fill('filler');
	fill('more', "PERFORM pglock.release_slot('waited for', 1);");
	$state = finish_waiting($session);
	last if $state eq '53200';
	$session->query("SELECT pglock.release_slot('waited for', 1)");
	$filler->query('SELECT pglock.release_all()');
}
is($state, '53200', 'a session that waited for a slot fails when the lock table is full');
$fillers = $filler->query("$held AND pid = pg_backend_pid()");
is($filler->query('SELECT pglock.release_all()'), $fillers, '... there is room again');
is( $session->query("BEGIN; SELECT pglock.acquire_slot('waited for', 1, scope => 'transaction');
		SELECT slot, granted, scope, depth FROM pglock.locks WHERE key = 'waited for'; COMMIT"),
	"1\n1|t|transaction|1", '... and nothing in the books of what it asked for');
$fillers = fill('filler');

# The server lives; there is room again when locks are given back.
is($session->query("SELECT pglock.held('own'), pglock.acquire('own'), pglock.release('own'), pglock.release('own')"),
	't|t|t|t', 'what is held can be taken again, and released');
is($filler->query('SELECT pglock.release_all()'), $fillers, 'the locks are given back');
is($session->query("SELECT pglock.acquire_all('{a,b,c}'), pglock.acquire('n1')"), 't|t', '... and there is room');
is($filler->query($held), '4', '... for these only');

end_session($session, $filler);
stop_and_check_log($node);
done_testing();
