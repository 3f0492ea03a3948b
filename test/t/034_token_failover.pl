# Fencing tokens grow over failovers. A synchronous standby knows of all that were given out: nobody
# gets one before. An asynchronous one may not, but it has the clock. (For clocks that are wrong see
# 047_token_clock.)

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

use constant {
	FAR => 8_000_000_000_000_000,    # ahead of the clock, which would hide what was forgotten
	DRAWS => 20000,                  # of a client, if its server lives to that
};

my $now = '(extract(epoch FROM clock_timestamp()) * 1000000)::bigint';
my $draw = "SELECT pglock.acquire('k'), pglock.token('k'), pglock.release('k')";

# The token that a new session draws in a hold of its own.
sub draw
{
	my ($node) = @_;
	my $output = $node->safe_psql('postgres', $draw);

	return $output =~ /^t\|(\d+)\|t$/ ? $1 : die "no token: $output";
}

sub new_standby
{
	my ($primary, $name) = @_;
	my $standby = PostgreSQL::Test::Cluster->new($name);

	$standby->init_from_backup($primary, 'backup', has_streaming => 1);
	$standby->start;
	$primary->wait_for_catchup($standby);
	return $standby;
}

sub promote
{
	my ($standby) = @_;

	$standby->promote;
	$standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'no promotion';
	return;
}

# SQLSTATE of a statement
sub sqlstate
{
	my ($session, $sql) = @_;

	my ($output) = $session->query("$sql;\n\\echo SQLSTATE :SQLSTATE");

	$session->{stderr} = '';    # query_safe() takes what is there for its own
	return $output =~ /SQLSTATE (\w+)/ ? $1 : "no SQLSTATE in: $output";
}

#
# A synchronous standby
#

my $primary = new_server('primary', init => { allows_streaming => 1 }, conf => "autovacuum = off\n");

$primary->backup('backup');

my $standby = new_standby($primary, 'standby');

# synchronous from now on, or not
sub set_synchronous
{
	my ($names) = @_;

	$primary->safe_psql('postgres', "ALTER SYSTEM SET synchronous_standby_names = '$names'");
	$primary->reload;
	return;
}

# The next draw logs a bound again, which no standby has got yet.
sub forget_standby
{
	$primary->safe_psql('postgres', 'CHECKPOINT');
	return;
}

$primary->safe_psql('postgres', 'SELECT setval(\'pglock.tokens\', ' . FAR . ')');
set_synchronous('*');
wait_until_synchronous($primary);
is(draw($primary), FAR + 1, 'a token is drawn');

# On the standby there are none: not even where locks are allowed.
my $on_standby = session($standby);

is(sqlstate($on_standby, "SELECT pglock.token('k')"), '25006', 'refused on a standby');
$on_standby->query_safe('SET pglock.allow_on_standby = on');
is($on_standby->query_safe("SELECT pglock.acquire('k')"), 't', 'a lock is allowed');
is(sqlstate($on_standby, "SELECT pglock.token('k')"), '25006', '... its token is refused');
cmp_ok($standby->safe_psql('postgres', 'SELECT last_value FROM pglock.tokens'), '>', FAR + 1,
	'... but the standby knows the bound');

# Without the standby nobody gets a token that it does not know of, whatever the session has set.
$on_standby->quit;
$standby->stop;
is(draw($primary), FAR + 2, 'the standby is down: tokens it knows of are drawn');
forget_standby();

my %sessions = map { $_ => session($primary) } ('on', 'off', 'local', 'remote_write', 'remote_apply', 'timeout', 'end');
my %pids;

foreach my $name (sort keys %sessions)
{
	my $setting = $name =~ /timeout|end/ ? 'off' : $name;

	$sessions{$name}->query_safe("SET synchronous_commit = $setting; SELECT pglock.acquire('$name')");
	$pids{$name} = $sessions{$name}->query_safe('SELECT pg_backend_pid()');
}
$sessions{timeout}->query_safe("SET statement_timeout = '100ms'");
is(sqlstate($sessions{timeout}, "SELECT pglock.token('timeout')"), '57014', 'a timeout ends the wait for it');
$sessions{timeout}->query_safe('RESET statement_timeout');
is($sessions{timeout}->query_safe("SELECT key, token FROM pglock.locks WHERE key = 'timeout'"), 'timeout|',
	'... the lock is held, without a token');

my @waiting = grep { $_ ne 'timeout' } sort keys %sessions;

start_waiting($sessions{$_}, "SELECT pglock.token('$_')") foreach @waiting;
wait_for_replication($primary, scalar @waiting);
pass('... whatever synchronous_commit is, sessions wait');

foreach my $name ('on', 'off')
{
	$primary->safe_psql('postgres', "SELECT pg_cancel_backend($pids{$name})");
	is(finish_waiting($sessions{$name}), '57014', "synchronous_commit = $name: a cancel ends the wait");
	$sessions{$name}->{stderr} = '';
	is($sessions{$name}->query_safe("SELECT key, token FROM pglock.locks WHERE key = '$name'"), "$name|",
		'... the lock is held, without a token');
	is($sessions{$name}->query_safe('SHOW synchronous_commit'), $name, '... the setting is what it was');
}
$primary->safe_psql('postgres', "SELECT pg_terminate_backend($pids{end})");
wait_for_session_end($primary, $pids{end});
is($primary->safe_psql('postgres', "SELECT pglock.is_free('end')"), 't', 'a waiting session ends, with its lock');
end_session(delete $sessions{end});
wait_for_replication($primary, 3);
$standby->start;
foreach my $name ('local', 'remote_write', 'remote_apply')
{
	is(finish_waiting($sessions{$name}), '00000', "synchronous_commit = $name: the standby is back, and the token there");
	is($sessions{$name}->query_safe('SHOW synchronous_commit'), $name, '... the setting is what it was');
}

my @tokens = map { $sessions{$_}->query_safe("SELECT pglock.token('$_')") } sort keys %sessions;
my %different = map { $_ => 1 } @tokens;

is(scalar(keys %different), 6, 'who was cancelled draws now, and all tokens are different');

# In a block, the cancel caught: there is no token all the same.
$standby->stop;
forget_standby();
$sessions{on}->query_safe("SELECT pglock.release('on'), pglock.acquire('on')");
start_waiting($sessions{on}, "DO \$\$ BEGIN PERFORM pglock.token('on');
	EXCEPTION WHEN query_canceled THEN PERFORM pglock.acquire('caught'); END \$\$");
wait_for_replication($primary, 1);
$primary->safe_psql('postgres', "SELECT pg_cancel_backend($pids{on})");
is(finish_waiting($sessions{on}), '00000', 'a cancel is caught');
$sessions{on}->{stderr} = '';
is($sessions{on}->query_safe("SELECT string_agg(key, ',' ORDER BY key), max(token) FROM pglock.locks
		WHERE pid = pg_backend_pid()"), 'caught,on|', '... there is no token');

# Given up, the standby is nothing to wait for: not for those who do already, and have not heard of it.
start_waiting($sessions{on}, "SELECT pglock.token('on')");
wait_for_replication($primary, 1);
set_synchronous('');
is(finish_waiting($sessions{on}), '00000', 'the standby is given up: who waits for it gets the token');
$sessions{on}->{stderr} = '';
forget_standby();
is($sessions{off}->query_safe("SELECT pglock.release('off'), pglock.acquire('off'), pglock.token('off') > 0"),
	't|t|t', '... others do not wait');

# Nor do those who have heard of a new one before the server's checkpointer has, as with commits.
my $checkpointer = $primary->safe_psql('postgres',
	"SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'");

forget_standby();
kill 'STOP', $checkpointer;
set_synchronous('*');
$sessions{off}->query_safe("SELECT pglock.release('off'), pglock.acquire('off')");
$primary->poll_query_until('postgres', "SELECT current_setting('synchronous_standby_names') = '*'");
is(sqlstate($sessions{off}, "SELECT pglock.token('off')"), '00000', 'nobody is to be waited for yet: a token is drawn');
set_synchronous('');
kill 'CONT', $checkpointer;

# One that comes while a command runs is waited for in the command.
forget_standby();
$sessions{off}->query_safe("SELECT pglock.acquire('gate')");
start_waiting($sessions{on}, "DO \$\$ BEGIN PERFORM pglock.release_all('{on}'), pglock.acquire('on'), pglock.acquire('gate'),
	pglock.token('on'); END \$\$");
wait_for_waiter($primary, 'gate');
set_synchronous('*');
$primary->poll_query_until('postgres', "SELECT current_setting('synchronous_standby_names') = '*'");
# the checkpointer has to have heard of it: a commit waits
start_waiting($sessions{local}, "SET synchronous_commit = on; CREATE TABLE waits ()");
wait_for_replication($primary, 1);
$sessions{off}->query_safe("SELECT pglock.release('gate')");
wait_for_replication($primary, 2);
$primary->safe_psql('postgres', "SELECT pg_cancel_backend($pids{on})");
is(finish_waiting($sessions{on}), '57014', 'a new standby is waited for in a command that began before; a cancel ends it');
$sessions{on}->{stderr} = '';
is($sessions{on}->query_safe("SELECT key, token FROM pglock.locks WHERE key = 'on'"), '',
	'... there is no token, nor the lock that the command took');
set_synchronous('');
finish_waiting($sessions{local});

# Failover while clients draw tokens: what they saw, which is what they printed, is not given out again.
set_synchronous('*');
$standby->start;
wait_until_synchronous($primary);
end_session(values %sessions);

my @clients;

foreach my $number (1 .. 2)
{
	my $folder = PostgreSQL::Test::Utils::tempdir();

	append_to_file("$folder/script.sql", "SET synchronous_commit = off;\n" . "$draw;\n" x DRAWS);
	push @clients,
	  {
		output => "$folder/seen",
		run => IPC::Run::start(
			[ $primary->installed_command('psql'), '-XAtq', '-d', $primary->connstr('postgres'), '-f', "$folder/script.sql" ],
			'>', "$folder/seen", '2>', '/dev/null')
	  };
}
$on_standby = session($standby);
$on_standby->query_safe('SET pglock.allow_on_standby = on');
$on_standby->query_safe("SELECT pglock.acquire('over promotion')");
foreach my $client (@clients)
{
	usleep(10_000) until -s $client->{output} || !$client->{run}->pumpable;
}
$primary->stop('immediate');
promote($standby);
$_->{run}->finish foreach @clients;

my ($greatest) = sort { $b <=> $a } map { slurp_file($_->{output}) =~ /\b(\d{16})\b/g } @clients;

cmp_ok($greatest, '>', (sort { $a <=> $b } @tokens)[-1], 'clients draw tokens until the primary crashes');
cmp_ok($on_standby->query_safe("SELECT pglock.token('over promotion')"), '>', $greatest,
	'promoted: a session that held a lock before draws a greater one');
cmp_ok(draw($standby), '>', $on_standby->query_safe("SELECT pglock.token('over promotion')"), '... and so does another');
end_session($on_standby);
stop_and_check_log($standby);
is_crash_free($primary);

#
# Asynchronous standbys that lag behind
#

my $first = new_server('first', init => { allows_streaming => 1 }, conf => "autovacuum = off\n");

$first->backup('backup');

my @standbys = map { new_standby($first, $_) } ('second', 'third');

draw($first);
foreach my $node (@standbys)
{
	$first->wait_for_catchup($node);
	$node->append_conf('postgresql.conf', "primary_conninfo = ''");
	$node->reload;
	$node->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)')
	  or die 'the standby is not cut off';
}

my $known = $standbys[0]->safe_psql('postgres', 'SELECT last_value FROM pglock.tokens');
my $last = 0;

# that bound is a second ahead at most
$last = draw($first) until $last > $known;
cmp_ok($last, '>', $standbys[$_]->safe_psql('postgres', 'SELECT last_value FROM pglock.tokens'),
	'the standby does not know what was given out')
  foreach 0, 1;
$first->stop('immediate');

foreach my $node (@standbys)
{
	my $name = $node->name;

	promote($node);
	my ($token, $time) = split /\|/, $node->safe_psql('postgres', "SELECT pglock.token('k'), $now FROM pglock.acquire('k')");
	cmp_ok($token, '>', $last, "$name is promoted: its first token is greater all the same");
	cmp_ok($token, '<', $time + 125_000_000, '... and ahead of the clock by not much more than twice pglock.token_margin');
	$last = draw($node);
	cmp_ok($last, '>', $token, '... they go on from there');
	is($node->safe_psql('postgres', 'SELECT timeline_id FROM pg_control_checkpoint()'), '2', '... on timeline 2')
	  if $node->safe_psql('postgres', 'CHECKPOINT') eq '';
	$node->stop('immediate');
	is_crash_free($node);
}
is_crash_free($first);
done_testing();
