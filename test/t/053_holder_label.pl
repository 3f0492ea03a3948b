# pglock.holder: whom a session says it takes its locks for, as others see it: whenever and however it was set, never
# torn, and never left behind to another session.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run;
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

use constant SECONDS => 4;

my $node = new_server('holder_label', conf => <<'END');
shared_preload_libraries = postgres_lock
max_prepared_transactions = 1
END
my $observer = session($node);
my $holder = session($node);

# The label at all rows of the key, by another session; - for none.
sub label
{
	my $key = shift // 'k';

	return $observer->query("SELECT string_agg(DISTINCT coalesce(holder, '-'), ',') FROM pglock.locks
		WHERE lock_id = pglock.lock_id('$key')");
}

# What the session sees of itself, and another one of it
sub is_label
{
	my ($sql, $label, $name) = @_;
	my $own = $holder->query("$sql;\nSELECT 'own ' || coalesce(max(holder), '-') FROM pglock.locks WHERE key = 'k'");

	is($own =~ s/.*^own //msr, $label, "$name: the session sees it");
	is(label(), $label, '... and another one');
	return;
}

$holder->query_safe("SET pglock.holder = 'before'");
is_label("SELECT pglock.acquire('k'), pglock.acquire('k', shared => true)", 'before', 'set before the session had any lock');
is_label("SET pglock.holder = 'after'", 'after', 'set while it holds one');
is_label("BEGIN; SET LOCAL pglock.holder = 'local'", 'local', 'SET LOCAL');
is_label("SAVEPOINT s; SET LOCAL pglock.holder = 'inner'", 'inner', 'SET LOCAL after a savepoint');
is_label('ROLLBACK TO s', 'local', '... which is rolled back');
is_label('COMMIT', 'after', '... and ends with the transaction');
is_label("BEGIN; SET pglock.holder = 'undone'", 'undone', 'SET in a transaction');
is_label('ROLLBACK', 'after', '... which is rolled back');
is_label("SET pglock.holder = ''", '-', 'nobody');
is_label("SELECT set_config('pglock.holder', 'by function', false)", 'by function', 'set_config');
is_label('RESET pglock.holder', '-', 'RESET');

# Long ones are shortened as keys are, where a character ends.
is_label("SET pglock.holder = '" . 'x' x 255 . "'", 'x' x 255, 'as long as may be');
is($holder->query("SET client_encoding = 'UTF8'; SELECT set_config('pglock.holder', repeat('é', 200), false) <> ''"), 't', 'too long');
is($observer->query("SELECT DISTINCT holder = repeat('é', 127) || '...' FROM pglock.locks WHERE key = 'k'"), 't', '... is shortened');

# Messages and leases
$holder->query_safe("SET pglock.holder = 'worker 7'");

my $stderr;

$node->psql('postgres', "CALL pglock.lock('k', '1ms')", stderr => \$stderr);
like($stderr, qr/^DETAIL:  .*process \d+ \(.*, for "worker 7", since .*\)\.$/m, 'who waits in vain is told');
$holder->query_safe("SELECT pglock.acquire_lease('default'), pglock.acquire_lease('own', holder => 'me'), pglock.try_lease('try');
	RESET pglock.holder; SELECT pglock.acquire_lease('nobody')");
is($observer->query("SELECT string_agg(key || ':' || coalesce(holder, '-'), ' ' ORDER BY key) FROM pglock.leases"),
	'default:worker 7 nobody:- own:me try:worker 7', 'leases are for the same, unless they say otherwise');

# Who waits, slots, prepared transactions
my $waiter = session($node);

$waiter->query_safe("SET pglock.holder = 'next'");
start_waiting($waiter, "SELECT pglock.acquire('k')");
wait_for_waiter($node, 'k');
is(label(), '-,next', 'who waits has its own');
$holder->query_safe("SET pglock.holder = 'slots'; SELECT pglock.acquire_slot('s', 2)");
is(label('s'), 'slots', 'slots have it');
$holder->query_safe("BEGIN; SELECT pglock.acquire('p', scope => 'transaction'); PREPARE TRANSACTION 'p'");
is(label('p'), '-', 'a prepared transaction has none');
$holder->query_safe("ROLLBACK PREPARED 'p'; SELECT pglock.release_all()");
is(finish_waiting($waiter), '00000', 'the next one gets the lock');
is(label(), 'next', '... as its own');

# Another session at the same place does not inherit it.
my $pid = $waiter->query('SELECT pg_backend_pid()');

end_session($waiter);
wait_for_session_end($node, $pid);
foreach (1 .. 3)
{
	my $heir = session($node);

	$heir->query_safe("SELECT pglock.acquire('k$_')");
	is(label("k$_"), '-', 'a new session has none');
	end_session($heir);
}

# A setting of a role may come from a database of another encoding, and what it is in this one may be no text.
$node->safe_psql('postgres', "CREATE ROLE app LOGIN; CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
$node->safe_psql('latin', "SET client_encoding = 'UTF8'; ALTER ROLE app SET pglock.holder = 'caf\x{c3}\x{a9}'");

my $app = session($node, extra_params => [ '-U', 'app' ]);

is($app->query("SELECT pglock.acquire('k'); SELECT holder FROM pglock.locks WHERE key = 'k'") =~ s/^t\n//r,
	'caf?', 'what is no text in this encoding is not shown as text');
is(label(), 'caf?', '... nor to another session');
end_session($app);

# Parallel workers get the setting, and have nothing to publish.
is( $holder->query("SET pglock.holder = 'leader'; SELECT pglock.acquire('k'); SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
		SET min_parallel_table_scan_size = 0; SET parallel_leader_participation = off;
		SELECT count(current_setting('pglock.holder')) > 0 FROM pg_class WHERE relname <> current_setting('pglock.holder')") =~ s/^t\n//r,
	't', 'a parallel query with a label');
is(label(), 'leader', '... which stays that of the leader');
end_session($holder);

# Never torn. One session changes it as fast as it can, to one letter many times or a few; the others look.
my $torn = q{holder !~ '^(.)\1*$'};

is($observer->query("SELECT $torn FROM (VALUES ('aaaab'), ('aaaaa')) AS v (holder)"), "t\nf", 'control: what is torn is found');

my $folder = PostgreSQL::Test::Utils::tempdir();

# (in one statement, so that it changes often)
append_to_file("$folder/change", <<'END_OF_SCRIPT');
DO $$ BEGIN
	PERFORM pglock.held('torn') OR pglock.acquire('torn', shared => true);
	FOR i IN 1 .. 20000 LOOP
		PERFORM set_config('pglock.holder', repeat(chr(97 + i % 26), 5 + 11 * (i % 23)), false);
	END LOOP;
END $$;
END_OF_SCRIPT

my ($output, $looked, $found, $seen) = ('', 0, 0, 0);
my $changer = IPC::Run::start(
	[ 'pgbench', '-n', '-c', 2, '-T', SECONDS, '-f', "$folder/change", '-h', $node->host, '-p', $node->port, 'postgres' ],
	'<', \undef, '>&', \$output);

for (my $end = time + SECONDS; time < $end;)
{
	my ($all, $bad) = split /\|/, $observer->query("SELECT count(holder), count(*) FILTER (WHERE $torn) FROM pglock.locks");

	$looked++;
	$seen += $all;
	$found += $bad;
}
$changer->finish;
cmp_ok($seen, '>', 0, "labels are seen: $seen, by $looked looks");
is($found, 0, '... and none is torn');

end_session($observer);
stop_and_check_log($node);
done_testing();
