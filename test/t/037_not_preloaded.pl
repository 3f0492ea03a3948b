# Before PostgreSQL 17 a library that is not preloaded has no shared memory: locks work as ever, and
# each session sees what it publishes itself.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('not_preloaded', conf => "max_prepared_transactions = 5\n");

plan(skip_all => 'from PostgreSQL 17 on there is shared memory for all') if $node->pg_version >= 17;

sub query { return $node->safe_psql('postgres', @_); }

# The SQLSTATE of what ends by itself.
sub sqlstate
{
	my ($session, $sql) = @_;
	my ($output) = $session->query("$sql;\n\\echo SQLSTATE :SQLSTATE");

	return $output =~ /SQLSTATE (\w+)/ ? $1 : "no SQLSTATE in: $output";
}

is(query('SELECT pglock.registry_size()'), '', 'not preloaded: there is no registry');
is(query("SHOW shared_preload_libraries"), '', '(nothing is preloaded)');

# The lock functions
my $session = session($node);
my $other = session($node);
foreach my $name ('k', '7::bigint', '11111111-2222-3333-4444-555555555555::uuid')
{
	my ($text) = $name =~ /([^:]+)/;
	my $key = "'$text'" . substr($name, length $text);

	is( $session->query("SELECT pglock.acquire($key), pglock.acquire($key, '1s'), pglock.try($key), pglock.try($key, shared => true),
			pglock.held($key), pglock.is_free($key), pglock.token($key) = pglock.token($key)"),
		't|t|t|t|t|f|t', "$key: taken in each way");
	is($session->query("CALL pglock.lock($key, shared => true); SELECT pid = pg_backend_pid() FROM pglock.holders($key) pid"),
		't', '... also by the procedure');
	is($other->query("SELECT pglock.try($key), pglock.acquire($key, '1ms', true), pglock.held($key), pglock.is_free($key)"),
		'f|f|f|f', '... others are excluded');
	is( $session->query("SELECT key, mode, scope, depth, held_since <= clock_timestamp() FROM pglock.session_holds() ORDER BY mode"),
		"$text|exclusive|session|3|t\n$text|shared|session|2|t",
		'... the books know');
	is($session->query("SELECT pglock.release($key), pglock.release($key, shared => false), pglock.release_all()"),
		't|t|3', '... and it is given back');
	is($other->query("SELECT pglock.is_free($key)"), 't', '... to all');
}
is( $session->query("SELECT pglock.acquire_all('{a,b,c}'), pglock.acquire_raw(42), pglock.try_raw(42), pglock.release_raw(42),
		pglock.release_all('{a,b}'), pglock.release_all(), pglock.release('c')"),
	't|t|t|t|2|2|f', 'many keys, and ids');
is($session->query("CALL pglock.lock_raw(42, '1s'); SELECT pglock.release_raw(42)"), 't', '... also by the procedure');
is( $session->query("BEGIN; SELECT pglock.acquire('k', scope => 'transaction'), pglock.try('l', scope => 'transaction');
		PREPARE TRANSACTION 'p'; SELECT pglock.is_free('k'), pglock.is_free('l')"),
	"t|t\nf|f", 'transaction scope, which is prepared');
is($session->query("COMMIT PREPARED 'p'; SELECT pglock.is_free('k'), pglock.is_free('l')"), 't|t', '... and committed');

# a wait, with its deadlock, timeout and cancel
is($session->query("SELECT pglock.acquire('k')"), 't', 'a session holds a lock');
start_waiting($other, "SELECT pglock.acquire('k')");
wait_for_waiter($node, 'k');
is($session->query("SELECT pglock.release('k')"), 't', '... and gives it back');
is(finish_waiting($other), '00000', '... to the one who waits');
is(sqlstate($session, "CALL pglock.lock('k', '10ms')"), '55P03', '... another waits in vain');
is(sqlstate($session, "SET statement_timeout = 100\\; SELECT pglock.acquire('k')"), '57014', '... or is cancelled');
$session->query('RESET statement_timeout');
is($other->query('SELECT pglock.release_all()'), '1', '... and all is given back');

# slots
my $pid = $session->query('SELECT pg_backend_pid()');

is( $session->query("SELECT pglock.acquire_slot('k', 2) + pglock.try_slot('k', 2), pglock.try_slot('k', 2), pglock.acquire_slot('k', 3)"),
	'3||3', 'a session takes slots');
is($other->query("SELECT pglock.try_slot('k', 3), pglock.acquire_slot('k', 3, '1ms'), pglock.try_slot('k', 4)"), '||4', '... others are excluded');
is($session->query("SELECT string_agg(key || slot || scope || depth, ' ' ORDER BY slot) FROM pglock.session_holds()"),
	'k1session1 k2session1 k3session1', '... the books know');
foreach my $call ("SELECT pglock.acquire_slot('k', 2)", "CALL pglock.slot('k', 2)")
{
	start_waiting($other, $call);
	wait_for_waiter($node, 'k');
	is(query("SELECT granted, blocked_by = ARRAY[$pid] FROM pglock.locks WHERE slot = 0"),
		'f|t', "$call waits, and the view shows for whom");
	is($session->query("SELECT pglock.release_slot('k', 1)"), 't', '... a slot is given back');
	is(finish_waiting($other), '00000', '... to the one who waits');
	is($other->query("SELECT pglock.release_slot('k', 1)"), 't', '... who has it');
	is($session->query("SELECT pglock.acquire_slot('k', 2)"), '1', '... and gives it back');
}
is(sqlstate($other, "CALL pglock.slot('k', 2, '10ms')"), '55P03', 'another waits for a slot in vain');
is(sqlstate($session, "SELECT pglock.acquire_slot('k', 3)"), '55000', '... nobody for himself');
is($session->query('SELECT pglock.release_all()') . $other->query('SELECT pglock.release_all()'), '31', '... and all are given back');

# many holds
is($session->query("SELECT count(*) FILTER (WHERE pglock.acquire('many' || i)) FROM generate_series(1, 1000) i"),
	'1000', 'a session holds many locks');
is( $session->query("SELECT count(*), count(DISTINCT key), bool_and(key = 'many' || substr(key, 5) AND pglock.lock_id(key) = lock_id),
		count(scope), count(depth), count(held_since) FROM pglock.locks"),
	'1000|1000|t|1000|1000|1000', '... and sees them all');
is($session->query('SELECT pglock.release_all(), (SELECT count(*) FROM pglock.locks)'), '1000|0', '... until they are given back');

# The view: the own locks, and that others hold and wait
my $rows = 'SELECT key, mode, scope, granted, depth, pid = ' . $pid . ', held_since IS NOT NULL, token IS NOT NULL,
	blocked_by FROM pglock.locks ORDER BY mode, granted';

is($session->query("SELECT pglock.acquire('k'), pglock.acquire('k'), pglock.token('k') > 0"), 't|t|t', 'a session holds a lock');
start_waiting($other, "SELECT pglock.acquire('k', shared => true)");
wait_for_waiter($node, 'k');
is($session->query($rows), "k|exclusive|session|t|2|t|t|t|\nk|shared||f||f|f|f|{$pid}",
	'the view shows it to the session, and gives the one who waits its name');
is(query($rows), "|exclusive||t||t|f|f|\n|shared||f||f|f|f|{$pid}", '... to others that there is one');
is(query("SELECT count(*) FROM pglock.locks WHERE usename IS NULL OR application_name IS NULL OR lock_id <> pglock.lock_id('k')"),
	'0', '... who it is, and its id');
ok( $node->poll_query_until('postgres', 'SELECT waiting_since <= clock_timestamp() FROM pglock.locks WHERE NOT granted'),
	'... and how long one waits');
$session->query('SELECT pg_advisory_unlock_all()');
is(finish_waiting($other), '00000', 'the lock goes to the next');
is($session->query("SELECT count(*), count(key) FROM pglock.locks"), '1|0', '... and nothing of the old one is left');
is($other->query('SELECT key, mode, depth FROM pglock.locks'), 'k|shared|1', '... as the new one sees it');
$other->query('SELECT pglock.release_all()');

# Statistics
is(query('SELECT count(*) FROM pglock.contention'), '0', 'no waits are recorded');
is(query('SELECT pglock.contention_reset()'), '', '... nor forgotten');

# Settings. Until the library is loaded PostgreSQL knows nothing of them.
is($session->query('SHOW pglock.warnings; SHOW pglock.session_scope; SHOW pglock.allow_on_standby;
		SHOW pglock.max_holds; SHOW pglock.max_contended_keys'),
	"on\non\noff\n0\n1000", 'the settings have their defaults');
is(query("SELECT pglock.lock_id('k') > 0; SHOW pglock.max_contended_keys; ALTER SYSTEM SET pglock.max_contended_keys = 2"),
	"t\n1000", 'how many keys there are statistics for can be set');
query('SELECT pg_reload_conf()');
ok( $node->poll_query_until('postgres', "SELECT pglock.lock_id('k') > 0 AND current_setting('pglock.max_contended_keys') = '2'"),
	'... and is shown');
is(($node->psql('postgres', "SELECT pglock.lock_id('k'); SET pglock.max_contended_keys = 5"))[0] == 0 ? 'set' : 'refused',
	'refused', '... but not for a session');
is( ($node->psql('postgres', "SELECT pglock.lock_id('k'); ALTER SYSTEM SET pglock.max_contended_keys = 1000001"))[0] == 0
	? 'set' : 'refused', 'refused', '... nor beyond its bounds');
is(query('SELECT count(*), pglock.registry_size() FROM pglock.contention'), '0|', '... and changes nothing yet');
end_session($session, $other);

# Preloaded, after a restart, it counts.
query("SELECT pglock.lock_id('k'); ALTER SYSTEM SET shared_preload_libraries = postgres_lock");
$node->restart;
is(query('SHOW pglock.max_contended_keys; SELECT pglock.registry_size() > 0'), "2\nt", 'preloaded: there is a registry');
$session = session($node);
$session->query("SELECT pglock.acquire(i) FROM unnest('{a,b,c}'::text[]) i");
is(query("SELECT string_agg(key, ',' ORDER BY key) FROM pglock.locks"), 'a,b,c', '... others see names');
query("SELECT pglock.acquire(i, '1ms') FROM unnest('{a,b,c}'::text[]) i");
is(query("SELECT string_agg(key, ',' ORDER BY key) FROM pglock.contention"), 'b,c', '... and as many statistics as was set');
end_session($session);

stop_and_check_log($node);
done_testing();
