# The life of the extension: dropped and created while locks are held, dumped and restored, loaded
# before or at the first call, and what it makes of settings that were there before it.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('life');

# (SQLSTATE, output) of a statement in a new session
sub run_as
{
	my ($role, $sql) = @_;
	my (undef, $output) =
	  $node->psql('postgres', "$sql;\n\\echo :SQLSTATE", on_error_stop => 0, extra_params => [ '-U', $role ]);
	my @lines = split /\n/, $output;
	my $state = pop @lines;

	return ($state, join "\n", @lines);
}

# Dropping the extension takes its functions away, not its locks.
my $holder = session($node);
my $waiter = session($node);

is($holder->query("SELECT pglock.acquire('k'), pglock.acquire('k')"), 't|t', 'a lock is held');
start_waiting($waiter, "SELECT pglock.acquire('k')");
wait_for_waiter($node, 'k');
$node->safe_psql('postgres', 'DROP EXTENSION postgres_lock');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"),
	'1', 'dropped: it is still held');
# (the schema stays: PostgreSQL made it for the extension, but not a part of it)
is( $node->safe_psql('postgres', "SELECT
		(SELECT count(*) FROM pg_proc WHERE pronamespace = 'pglock'::regnamespace),
		(SELECT count(*) FROM pg_class WHERE relnamespace = 'pglock'::regnamespace)"),
	'0|0', '... and nothing else is left');
$node->safe_psql('postgres', 'CREATE EXTENSION postgres_lock');
is( $holder->query("SELECT pglock.held('k'), (SELECT key || depth FROM pglock.session_holds()),
		pglock.acquire('k'), (SELECT key || depth FROM pglock.session_holds())"),
	't|k2|t|k3',
	'created again: the session knows what it holds');
is($node->safe_psql('postgres', "SELECT pglock.is_free('k'), pglock.try('k')"), 'f|f',
	'... and excludes others');
is($holder->query('SELECT pglock.release_all()'), '3', '... and gives it back');
is(finish_waiting($waiter), '00000', '... to whom has waited since before');
is($waiter->query("SELECT pglock.release('k')"), 't', '... who can release it');
end_session($holder, $waiter);

# Dump and restore. The administrator's own privileges go along, too.
$node->safe_psql('postgres', <<'END');
CREATE ROLE app LOGIN;
REVOKE EXECUTE ON FUNCTION pglock.release_all() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pglock.release_all() TO app;
CREATE DATABASE restored;
END

my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';

$node->command_ok([ 'pg_dump', '-f', $dump, 'postgres' ], 'the database is dumped');
unlike(slurp_file($dump), qr/CREATE FUNCTION/, '... the extension by its name only');
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $dump, 'restored' ], '... and restored');

my $before = describe_extension($node);
my $after = describe_extension($node, 'restored');

ok((grep { /app=X/ } @$before), 'privileges are described');
is_deeply($after, $before, 'functions, comments and privileges are equal');
is($node->safe_psql('restored', "SELECT pglock.acquire('k'), pglock.lock_id('5')"),
	't|983116577831777608', '... and work');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_proc WHERE pronamespace = 'pglock'::regnamespace
	AND obj_description(oid, 'pg_proc') IS NULL"), '0', 'every function has a comment');

# An ordinary user uses the functions, but not the settings that are meant for keeping him in bounds.
foreach my $preloaded (0, 1)
{
	my $how = $preloaded ? 'preloaded' : 'not preloaded';

	if ($preloaded)
	{
		$node->append_conf('postgresql.conf', "shared_preload_libraries = 'postgres_lock'");
		$node->restart;
	}
	is_deeply([ run_as('app', "SELECT pglock.acquire('k'), pglock.try('k'), pglock.acquire_all('{k,l}'),
			(SELECT string_agg(key || depth, ',' ORDER BY key) FROM pglock.locks), pglock.is_free('k'),
			pglock.release('k'), pglock.held('k')") ],
		[ '00000', 't|t|t|k3,l1|f|t|t' ], "$how: the functions work");
	is_deeply([ run_as('app', "CALL pglock.lock('k'); SELECT pglock.held('k')") ], [ '00000', 't' ],
		"$how: the procedure works");

	foreach my $loaded (0, 1)
	{
		# before the library is loaded a setting is a placeholder: refused at the first call, then
		my $when = $preloaded || $loaded ? 'refused' : 'without effect';
		my $first = $loaded ? "SELECT pglock.try('first');" : '';

		foreach my $setting ('session_scope = off', 'session_scope = on', 'max_holds = 1')
		{
			my ($state, $output) = run_as('app', "$first SET pglock.$setting");

			is($state, $when eq 'refused' ? '42501' : '00000', "$how, $first an ordinary user's $setting: $when");
			next if $when eq 'refused';
			($state, $output) =
			  run_as('app', "SET client_min_messages = error; SET pglock.$setting;
				SELECT pglock.try('a'), pglock.try('b');
				SELECT current_setting('pglock.session_scope'), current_setting('pglock.max_holds')");
			is_deeply([ $state, $output ], [ '00000', "t|t\non|0" ], '... at the first call it is dropped');
		}
	}

	# a superuser's setting for the role counts from the first call on
	is((run_as('app', 'ALTER ROLE app SET pglock.session_scope = on'))[0],
		'42501', "$how: an ordinary user cannot set it for the role");
	$node->safe_psql('postgres', 'ALTER ROLE app SET pglock.session_scope = off');
	is((run_as('app', "SELECT pglock.acquire('k')"))[0], '55000', "$how: session_scope off at the first call");
	is((run_as('app', "CALL pglock.lock('k')"))[0], '55000', '... for the procedure, too');
	is((run_as('app', "SELECT pglock.try('k')"))[0], '55000', '... and for try');
	is((run_as('app', "SELECT pglock.acquire_all('{k}')"))[0], '55000', '... and for acquire_all');
	is_deeply([ run_as('app', "BEGIN; SELECT pglock.acquire('k', scope => 'transaction'), pglock.release('a')") ],
		[ '00000', 't|f' ], '... but not for transaction scope, nor for release');
	is((run_as('app', "SET pglock.session_scope = on; SELECT pglock.acquire('k')"))[0], '55000',
		'... whatever the user sets');
	$node->safe_psql('postgres', 'ALTER ROLE app RESET pglock.session_scope');
	$node->safe_psql('postgres', 'ALTER ROLE app SET pglock.max_holds = 2');
	is((run_as('app', "SELECT pglock.acquire_all('{a,b}'), pglock.acquire('a')"))[0], '00000',
		"$how: as many locks as max_holds allows");
	is((run_as('app', "SELECT pglock.acquire_all('{a,b}'), pglock.acquire('c')"))[0], '54000', '... not more');
	$node->safe_psql('postgres', 'ALTER ROLE app RESET pglock.max_holds');
}

stop_and_check_log($node);
done_testing();
