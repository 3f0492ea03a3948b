# A lock taken on a standby would not exclude the primary's sessions, and which locks those hold is not
# known there: to take one and to ask for holders is refused, unless this standby's own are meant. After
# promotion all works, in old sessions, too.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use CPAN::Meta::YAML;
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = new_server('primary', init => { allows_streaming => 1 }, conf => "autovacuum = off\n");
my $standby = PostgreSQL::Test::Cluster->new('standby');

$primary->backup('backup');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby);

my $session = session($standby);

sub sqlstate_and_errors
{
	my ($sql) = @_;

	$session->{stderr} = '';
	my $output = $session->query("$sql;\n\\echo SQLSTATE :SQLSTATE");
	my ($state) = $output =~ /SQLSTATE (\w+)/;
	return ($state, $session->{stderr});
}

foreach my $call (
	"SELECT pglock.acquire('k')",
	"SELECT pglock.acquire('k', '1ms', true, 'transaction')",
	"SELECT pglock.acquire(5::bigint)",
	"SELECT pglock.acquire_raw(5)",
	"SELECT pglock.try('k')",
	"SELECT pglock.try('k', true)",
	"SELECT pglock.try_raw(5)",
	"CALL pglock.lock('k')",
	"CALL pglock.lock('k', '1ms', true)",
	"CALL pglock.lock_raw(5)",
	"SELECT pglock.acquire_all('{k,l}')",
	"SELECT pglock.acquire_slot('k', 1)",
	"SELECT pglock.acquire_slot('k', 2, '1ms', 'transaction')",
	"SELECT pglock.try_slot('k', 2)",
	"CALL pglock.slot('k', 2)")
{
	my ($state, $errors) = sqlstate_and_errors($call);

	is($state, '25006', "$call is refused");
	like($errors, qr/cannot acquire (?:lock|a slot of) (?:"[kl5]"|id 5) on a standby/, '... by its name')
	  if $call !~ /acquire_all/;
	like($errors, qr/DETAIL: .*HINT: .*pglock\.allow_on_standby/s, '... and says why, and what to do');
}
is($session->query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), '0',
	'nothing was taken');

# Nor is it said that nobody holds a lock: this session can't see what the primary's hold.
my $on_primary = session($primary);

is($on_primary->query("SELECT pglock.acquire('k')"), 't', 'the primary takes the lock');
foreach my $question (
	[ "SELECT pglock.is_free('k')", 'look up lock "k"' ],
	[ "SELECT pglock.is_free(5)", 'look up lock "5"' ],
	[ "SELECT pglock.held('k')", 'look up lock "k"' ],
	[ "SELECT pglock.holders('k')", 'look up lock "k"' ],
	[ "SELECT pglock.release('k')", 'release lock "k"' ],
	[ "SELECT pglock.release_raw(5, true)", 'release lock id 5' ],
	[ "SELECT pglock.release_slot('k', 2)", 'release slot 2 of "k"' ],
	[ "SELECT pid FROM pglock.locks", 'show locks' ],
	[ "SELECT key FROM pglock.lock_status()", 'show locks' ])
{
	my ($call, $what) = @$question;
	my ($state, $errors) = sqlstate_and_errors($call);

	is($state, '25006', "$call is refused");
	like($errors, qr/ERROR:  cannot $what on a standby\nDETAIL: .*primary.*HINT: .*pglock\.allow_on_standby/s,
		'... by its name, and says why, and what to do');
}
is( $session->query("SELECT pglock.release_all(), pglock.release_all('{k}'), pglock.lock_id('5'),
		(SELECT count(*) FROM pglock.session_holds()), (SELECT count(*) FROM pglock.contention)"),
	'0|0|983116577831777608|0|0',
	'what is about this session and this server alone is answered');

# What monitors and dumps a standby need not know.
my $queries = CPAN::Meta::YAML->read_string(
	slurp_file("$FindBin::RealBin/../../src/monitoring/postgres_lock_exporter.yaml"))->[0];

sub exported
{
	my ($name) = @_;

	$session->{stderr} = '';    # of what was refused
	return scalar(() = $session->query_safe($queries->{$name}{query}) =~ /^postgres\|/mg);
}

is(exported('pglock_locks'), 0, 'the exporter counts no locks there');
is(exported('pglock_contention'), 0, '... and its other queries run');
$standby->command_ok([ 'pg_dump', '--dbname', $standby->connstr('postgres'), '--file', "$PostgreSQL::Test::Utils::tmp_check/dump.sql" ],
	'pg_dump runs there');

$session->query('SET pglock.allow_on_standby = on');
is( $session->query("SELECT pglock.acquire('k'), pglock.try('k'), pglock.acquire('l', '1s'),
		pglock.acquire_all('{m,n}')"),
	't|t|t|t',
	'allowed: locks are taken');
is( $session->query("SELECT pglock.held('k'), pglock.is_free('k'),
		(SELECT array_agg(h) = ARRAY[pg_backend_pid()] FROM pglock.holders('k') h),
		(SELECT string_agg(key || depth, ',' ORDER BY key) FROM pglock.locks)"),
	't|f|t|k2,l1,m1,n1',
	'... and are seen');

is(exported('pglock_locks'), 6, '... and counted');
$session->query('SET pglock.allow_on_standby = off');
is( $session->query("SELECT pglock.held('k'), pglock.acquire_raw(1)"), '', 'no longer allowed: no more is taken');
is( $session->query("SELECT pglock.held('k'), pglock.release('k'), pglock.held('k')"),
	't|t|t', '... but what is held is known, and can be released');
$session->query('SET pglock.allow_on_standby = on');

# They exclude this standby's sessions, who can wait for them in every way.
my $other = session($standby);

$other->query('SET pglock.allow_on_standby = on');
is($other->query("SELECT pglock.try('k'), pglock.acquire('k', '1ms'), pglock.acquire_all('{a,k}', '1ms')"),
	'f|f|f', 'another session of the standby is refused');
start_waiting($other, "CALL pglock.lock('l')");
wait_for_waiter($standby, 'l');
is($session->query("SELECT pglock.release('l')"), 't', 'the holder releases');
is(finish_waiting($other), '00000', 'the waiter gets the lock');
is($other->query("SELECT pglock.held('l'), pglock.held('a')"), 't|f', '... and holds that lock only');

is($session->query("SELECT pglock.acquire_slot('k', 1), pglock.try_slot('k', 2)"), '1|2', 'slots are taken');
is($other->query("SELECT pglock.try_slot('k', 2), pglock.acquire_slot('k', 2, '1ms')"), '|', '... and not given to others');

# A conflict with recovery ends the statement that waits, with a timeout or without, but not the session.
$primary->safe_psql('postgres', 'CREATE TABLE removed AS SELECT generate_series(1, 10) AS n');
$standby->append_conf('postgresql.conf', "max_standby_streaming_delay = '10ms'");
$standby->reload;
$other->query("SELECT pglock.acquire('kept')");
foreach my $wait ("SELECT pglock.acquire('k')", "SELECT pglock.acquire('k', '10min')",
	"SELECT pglock.acquire('k', '10min', scope => 'transaction')", "CALL pglock.lock('k', '10min')",
	"SELECT pglock.acquire_slot('k', 1)", "SELECT pglock.acquire_slot('k', 2)", "CALL pglock.slot('k', 2, '10min')")
{
	$primary->wait_for_catchup($standby);
	$other->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM removed');
	start_waiting($other, $wait);
	wait_for_waiter($standby, 'k');
	$primary->safe_psql('postgres', 'DELETE FROM removed WHERE n = (SELECT min(n) FROM removed)');
	$primary->safe_psql('postgres', 'VACUUM removed');
	is(finish_waiting($other), '40001', "a conflict with recovery ends $wait");
	$other->query('ROLLBACK');
	is($other->query("SELECT pglock.held('kept'), (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())"),
		't|2', '... and nothing else');
}
is($other->query("SELECT pglock.release('kept')"), 't', 'the session goes on');

# Promotion while one waits.
$session->query('RESET pglock.allow_on_standby');
is((sqlstate_and_errors("SELECT pglock.acquire('late')"))[0], '25006', 'refused before promotion');
start_waiting($other, "SELECT pglock.acquire('m')");
wait_for_waiter($standby, 'm');
$standby->promote;
$standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'no promotion';
is($session->query("SELECT pglock.acquire('late')"), 't', 'promoted: an old session takes a lock');
is($session->query("SELECT pglock.held('k'), pglock.held('m'), pglock.release_all()"),
	't|t|6', 'what it held before, it still holds');
is(finish_waiting($other), '00000', 'who waited over the promotion gets the lock');
is($standby->safe_psql('postgres', "SELECT pglock.acquire('new'), pglock.try('k')"), 't|t',
	'a new session takes a lock');
$standby->safe_psql('postgres', "CALL pglock.lock('new')");

end_session($session, $other, $on_primary);
stop_and_check_log($standby);
stop_and_check_log($primary);
done_testing();
