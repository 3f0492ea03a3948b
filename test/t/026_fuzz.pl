# Hostile values in hostile contexts, struck by cancels: no backend crashes, and what a session took
# ends with it.
#
# PGLOCK_FUZZ_SEED repeats the statements of a run (not when their cancels strike).

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

use constant {
	CLIENTS => 3,
	STATEMENTS => 1000,    # of each client
};

my $seed = $ENV{PGLOCK_FUZZ_SEED} // 20240229;
my $node = new_server('fuzz', conf => "deadlock_timeout = 20ms\nfsync = off\nlog_min_messages = log\n"
	  . "log_min_error_statement = panic\n");

srand $seed;
diag("seed $seed");

sub pick { return $_[ int rand @_ ]; }

# NUL can't be sent; all other bytes can, whether they are UTF-8 or not
sub random_bytes
{
	my ($length) = @_;

	return join '', map { chr(1 + int rand 255) } 1 .. $length;
}

sub quoted
{
	my ($bytes) = @_;

	# psql must find the end of the string even where the bytes are no UTF-8: so they are written out
	return "E'" . join('', map { /[\w ]/a ? $_ : sprintf('\\x%02x', ord $_) } split //, $bytes) . "'";
}

sub key
{
	return pick(
		sub { "'" . pick('a' .. 'e') . "'" },
		sub { "'" . pick('a' .. 'e') . "'" },
		sub { quoted(random_bytes(int rand 40)) },
		sub { quoted(pick(q('), q("), '%s%n', '\\', "\n\r\t", "''", '', "\xc3\xa9", "\xf0\x9f\x98\x80", "\xc3", "\xff\xfe")) },
		sub { "repeat('" . pick('x', 'é', '%s', '日本') . "', " . pick(15, 16, 23, 24, 47, 48, 63, 64, 1000) . ')' },
		sub { "repeat('x', 1048576)" },
		sub { pick('NULL', 'NULL::text', "''") },
		sub { pick(0, -1, '9223372036854775807', "'-9223372036854775808'::bigint", int rand 1e9) . '::bigint' },
		sub { 'gen_random_uuid()' })->();
}

sub raw { return pick(0, 1, -1, 42, '9223372036854775807', "'-9223372036854775808'::bigint", 'NULL', "pglock.lock_id('a')"); }

sub keys_array
{
	return pick(
		"'{}'::text[]", "'{{a,b},{c,d}}'::text[]", "'{{{a}}}'::text[]", "'[5:7]={a,b,c}'::text[]", "'{a,a,a,NULL}'::text[]",
		"'{NULL}'::text[]", 'NULL::text[]', "'{a,b,c}'::text[]", "'{c,b,a}'::text[]", 'ARRAY[' . key() . '::text, ' . key() . '::text]',
		"(SELECT array_agg(i::text) FROM generate_series(1, " . int(rand 300) . ") i)", "array_fill('a'::text, ARRAY[20,20])",
		"ARRAY[repeat('y', 1048576), 'a']");
}

# Short where a wait ends by it; without one a statement_timeout ends the wait.
sub interval
{
	return pick("'1ms'", "'2ms'", "'0'", "'3ms'", 'NULL', "'-1s'", "'178000000 years'", "'-178000000 years'", "'1 us'",
		"'2147483647 ms'", "'2147483648 ms'", "'24 days 20:31:23.647'", "'1 mon -30 days'", "'infinity'", "'nonsense'",
		"make_interval(secs => 1e300)", "make_interval(days => -2147483648)", "'1 mon -720:00:00.000001'");
}

sub scope { return pick("'session'", "'session'", "'transaction'", "'transaction'", "'Session'", "''", 'NULL', quoted(random_bytes(10)), "repeat('s', 1048576)"); }
sub shared { return pick('true', 'false', 'false', 'NULL'); }

sub slots { return pick(1, 1, 2, 2, 3, 100, 16000, 0, -1, 16001, 2147483647, 'NULL'); }
sub slot { return pick(1, 2, 3, 100, 0, -1, 16000, 16001, 'NULL'); }

sub call
{
	return pick(
		sub { 'pglock.acquire(' . join(', ', key(), interval(), shared(), scope()) . ')' },
		sub { 'pglock.acquire(' . key() . ", '1ms', scope => " . pick("'session'", "'transaction'") . ')' },
		sub { 'pglock.acquire(' . key() . ', shared => ' . shared() . ')' },
		sub { 'pglock.try(' . join(', ', key(), shared(), scope()) . ')' },
		sub { 'pglock.acquire_raw(' . join(', ', raw(), interval(), shared(), scope()) . ')' },
		sub { 'pglock.try_raw(' . raw() . ')' },
		sub { 'pglock.acquire_all(' . join(', ', keys_array(), interval(), shared(), scope()) . ')' },
		sub { 'pglock.acquire_all(' . keys_array() . ')' },
		sub { 'pglock.acquire_slot(' . join(', ', key(), slots(), interval(), scope()) . ')' },
		sub { 'pglock.acquire_slot(' . join(', ', key(), pick(1, 2), "'1ms'") . ')' },
		sub { 'pglock.try_slot(' . join(', ', key(), slots(), scope()) . ')' },
		sub { 'pglock.release_slot(' . key() . ', ' . slot() . ')' },
		sub { 'pglock.release(' . key() . ', ' . pick('NULL', 'true', 'false') . ')' },
		sub { 'pglock.release_raw(' . raw() . ')' },
		sub { 'pglock.release_all(' . pick('', keys_array()) . ')' },
		sub { 'pglock.' . pick('held', 'is_free', 'lock_id') . '(' . key() . ')' },
		sub { '(SELECT count(*) FROM pglock.holders(' . key() . '))' },
		sub { '(SELECT count(*) FROM pglock.locks)' },
		sub { '(SELECT count(*) FROM pglock.session_holds())' },
		# round the books
		sub { pick('pg_advisory_unlock_all()::text', "pg_advisory_unlock(pglock.lock_id('a'))", "pg_try_advisory_lock(pglock.lock_id('a'))",
				"pg_advisory_xact_lock(pglock.lock_id('b'))::text", "pg_advisory_unlock_shared(pglock.lock_id('b'))") })->();
}

sub procedure
{
	return 'CALL pglock.' . pick(sub { 'lock(' . join(', ', key(), interval(), shared()) . ')' }, sub { 'lock(' . key() . ')' },
		sub { 'slot(' . join(', ', key(), slots(), interval(), scope()) . ')' }, sub { 'slot(' . join(', ', key(), pick(1, 2), "'1ms'") . ')' },
		sub { 'lock_raw(' . raw() . ", '1ms')" })->();
}

sub plpgsql { return pick(sub { 'PERFORM ' . call() . ';' }, sub { procedure() . ';' })->(); }

sub statement
{
	return pick(
		sub { 'SELECT ' . call() },
		sub { 'SELECT ' . call() . ', ' . call() },
		sub { procedure() },
		sub { 'SELECT ' . call() . ', 1/0' },
		sub { 'SELECT ' . call() . ' FROM generate_series(1, ' . int(rand 60) . ')' },
		sub { 'SELECT ' . call() . '\\; ' . procedure() . '\\; SELECT ' . call() },
		sub { 'DO $f$ BEGIN ' . plpgsql() . ' ' . plpgsql() . ' END $f$' },
		sub { 'DO $f$ BEGIN ' . plpgsql() . ' BEGIN ' . plpgsql() . ' ' . pick('', 'PERFORM 1/0;')
			  . ' EXCEPTION WHEN OTHERS OR query_canceled THEN ' . plpgsql() . ' END; ' . plpgsql() . ' END $f$' },
		sub { 'DO $f$ BEGIN ' . plpgsql() . pick(' COMMIT; ', ' ROLLBACK; ') . plpgsql() . ' END $f$' },
		sub { 'DO $f$ DECLARE r record; BEGIN FOR r IN SELECT ' . call() . ' FROM generate_series(1, 15) LOOP ' . plpgsql()
			  . pick('', ' EXIT;', ' COMMIT;') . ' END LOOP; END $f$' },
		sub { "BEGIN;\nDECLARE c" . pick('', ' SCROLL') . ' CURSOR' . pick('', ' WITH HOLD') . ' FOR SELECT ' . call()
			  . " FROM generate_series(1, 9);\nFETCH 2 FROM c;\nSELECT " . call() . ";\n" . pick('COMMIT', 'ROLLBACK') . ";\nCLOSE ALL" },
		sub { 'BEGIN' . pick('', ' ISOLATION LEVEL SERIALIZABLE', ' READ ONLY') . ";\nSELECT " . call() . ";\nSAVEPOINT s;\nSELECT " . call()
			  . ";\nSELECT " . call() . ";\n" . pick('ROLLBACK TO s', 'RELEASE s', 'SAVEPOINT s') . ";\nSELECT " . call() . ";\n"
			  . pick('COMMIT', 'ROLLBACK') },
		sub { 'SET pglock.' . pick('warnings = off', 'warnings = on', 'max_holds = 3', 'max_holds = 0', 'session_scope = off', 'session_scope = on',
				'session_scope = on', 'max_holds = -1') },
		sub { 'SET statement_timeout = ' . pick(1, 2, 3, 5, 10) },
		sub { 'SET lock_timeout = ' . pick(0, 1, 2) },
		sub { pick('DISCARD ALL', 'RESET ALL') . ";\nSET statement_timeout = 10" })->();
}

my @clients;
my @names = map { "fuzz$_" } 1 .. CLIENTS;

foreach my $name (@names)
{
	my $script = "SET application_name = $name;\nSET statement_timeout = 10;\n";

	$script .= statement() . ";\n" foreach 1 .. STATEMENTS;
	# what came after the last error does not matter, but that the session still works
	$script .= "ROLLBACK;\nRESET ALL;\nSELECT pglock.release_all() >= 0 AS alive \\gset\n"
	  . "SELECT pglock.try('end $name') AS alive \\gset\n\\echo end of $name :alive\n";
	my $output = '';
	push @clients,
	  {
		name => $name,
		output => \$output,
		run => IPC::Run::start([ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr('postgres'), '-f', '-' ],
			'<', \$script, '>', \$output, '2>', '/dev/null')
	  };
}

# Cancels from outside, until the clients are done.
my $cancels = IPC::Run::start(
	[ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr('postgres'), '-c', <<"END" ]);
DO \$\$ BEGIN
	WHILE EXISTS (SELECT FROM pg_stat_activity WHERE query NOT LIKE '%pglock.try(''end fuzz%'
		AND backend_type = 'client backend' AND pid <> pg_backend_pid()) LOOP
		PERFORM pg_cancel_backend(pid) FROM pg_locks
		WHERE locktype = 'advisory' AND (NOT granted OR objsubid = 5) AND random() < 0.3;
		PERFORM pg_sleep(random() * 0.005);
		PERFORM pg_stat_clear_snapshot();
	END LOOP;
END \$\$
END

foreach my $client (@clients)
{
	$client->{run}->finish;
	like(${ $client->{output} }, qr/^end of $client->{name} t$/m, "$client->{name} comes to its end");
}
$cancels->finish;

ok( $node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity
		WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"),
	'all sessions end');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), '0',
	'... and nothing is held');

stop_and_check_log($node);
done_testing();
