# From PostgreSQL 17 on sessions see each other's locks by name though nothing is preloaded: whoever needs
# the shared memory first makes it.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('preloading_not_needed', conf => "restart_after_crash = on\n");

plan(skip_all => 'before PostgreSQL 17 the library has to be preloaded') if $node->pg_version < 17;

sub query { return $node->safe_psql('postgres', @_); }

is(query('SHOW shared_preload_libraries'), '', 'nothing is preloaded');

# Who comes first: all at once
my $first = PostgreSQL::Test::Utils::tempdir() . '/first.sql';

append_to_file($first, "SELECT pglock.acquire('first' || :client_id);\nSELECT 1 / (count(*) = 1)::int FROM pglock.locks
	WHERE key = 'first' || :client_id AND pid = pg_backend_pid();\n");
$node->command_ok([ 'pgbench', '-n', '-c', 16, '-t', 1, '-f', $first, '-h', $node->host, '-p', $node->port, 'postgres' ],
	'sixteen sessions come at once, and each is seen');
is(query('SELECT count(*) FROM pglock.locks'), '0', '... until it ends');

my $empty = query('SELECT pglock.registry_size()');

cmp_ok($empty, '>', 0, 'there is a registry');

# Others see all of a session, however much it holds
my ($holder, $waiter) = map { session($node) } 1 .. 2;
my $pid = $holder->query('SELECT pg_backend_pid()');

is($holder->query("SELECT pglock.acquire('k'), pglock.acquire('k'), pglock.token('k') > 0"), 't|t|t', 'a session holds a lock');
start_waiting($waiter, "SELECT pglock.acquire('k', '10min', shared => true)");
wait_for_waiter($node, 'k');
ok($node->poll_query_until('postgres', "SELECT count(waiting_since) = 1 FROM pglock.locks WHERE key = 'k'"), '... another waits');
is( query("SELECT mode, scope, granted, depth, held_since < now(), waiting_since < now(), token > 0, blocked_by FROM pglock.locks
		WHERE key = 'k' ORDER BY granted DESC"),
	"exclusive|session|t|2|t||t|\nshared|session|f|||t||{$pid}",
	'... all is seen by others');
is($holder->query('SELECT pglock.release_all()'), '2', 'the holder gives it back');
is(finish_waiting($waiter), '00000', '... to the one who waits');
is(query('SELECT key, waits, timeouts FROM pglock.contention'), 'k|1|0', '... and the wait is counted');
is($holder->query("SELECT count(*) FROM generate_series(1, 1000) AS i WHERE pglock.try('many' || i)"), '1000', 'a thousand locks');
is(query("SELECT count(DISTINCT key) FROM pglock.locks WHERE key = 'many' || substr(key, 5)"), '1000', '... are seen by their names');
cmp_ok(query('SELECT pglock.registry_size()'), '>', $empty, '... for which there is memory');
end_session($holder, $waiter);
wait_for_session_end($node, $pid);
is(query('SELECT pglock.registry_size(), (SELECT count(*) FROM pglock.locks)'), "$empty|0", '... until the session ends');

# A crash takes the memory with it
$holder = session($node);
$pid = $holder->query("SELECT pg_backend_pid() FROM pglock.acquire('k')");
kill 'KILL', $pid;
$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid") or die 'no restart';
end_session($holder);
is(query("SELECT count(*), pglock.registry_size() FROM pglock.locks"), "0|$empty", 'after a crash all is new');
is(query('SELECT count(*) FROM pglock.contention'), '0', '... the statistics, too');

# It is sized when it is made
query("ALTER SYSTEM SET pglock.max_contended_keys = 2");
$node->restart;
$holder = session($node);
is($holder->query("SELECT count(*) FROM unnest('{a,b,c}'::text[]) AS i WHERE pglock.acquire(i)"), '3', 'a session holds three locks');
query("SELECT pglock.acquire(i, '1ms') FROM unnest('{a,b,c}'::text[]) AS i");
is(query("SELECT string_agg(key, ',' ORDER BY key) FROM pglock.contention"), 'b,c', 'there are statistics for as many keys as was set');
end_session($holder);

SKIP:
{
	skip 'before PostgreSQL 18 a library does not say what it is', 1 if $node->pg_version < 18;

	is( query("LOAD 'postgres_lock'; SELECT count(*) FROM pg_get_loaded_modules() AS m, pg_extension AS e
			WHERE m.module_name = e.extname AND m.version = e.extversion"),
		'1', 'the library says what it is');
}

stop_and_check_log($node, killed => [$pid]);
done_testing();
