# Nothing is held by those who are gone: sessions that were ended, crashed servers, clients that died
# while their session waited. What is given back behind our back leaves no phantom.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('crash', conf => "restart_after_crash = on\n");
my $advisory = "FROM pg_locks WHERE locktype = 'advisory'";

sub new_holder
{
	my $holder = session($node);
	my $pid = $holder->query('SELECT pg_backend_pid()');

	is( $holder->query("SELECT pglock.acquire('k'), pglock.acquire('k'), pglock.acquire('s', shared => true)"),
		't|t|t', 'a session holds locks');
	return ($holder, $pid);
}

# pg_terminate_backend
my ($holder, $pid) = new_holder();
my $waiter = session($node);

start_waiting($waiter, "SELECT pglock.acquire('k')");
wait_for_waiter($node, 'k');
is($node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)"), 't', 'the holder is ended');
is(finish_waiting($waiter), '00000', 'the waiter gets the lock');
wait_for_session_end($node, $pid);
is($waiter->query("SELECT pglock.held('k'), pglock.is_free('s')"), 't|t', '... and all locks are free');
end_session($holder);

# a waiter that is ended
my $victim = session($node);
my $victim_pid = $victim->query('SELECT pg_backend_pid()');

start_waiting($victim, "SELECT pglock.acquire('k')");
wait_for_waiter($node, 'k');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($victim_pid)");
wait_for_session_end($node, $victim_pid);
is($waiter->query("SELECT pglock.release('k'), pglock.is_free('k')"), 't|t', 'a waiter that is ended takes nothing');
end_session($victim);

# Clients that die while their session waits. Where the command would go on after the wait, only a
# look at the connection tells that nobody is there any more.
my $then_sleep = 'pg_sleep(3600)';

foreach my $call (
	"SELECT pglock.acquire('k')",
	"SELECT pglock.acquire('k'), $then_sleep",
	"SELECT pglock.acquire('k', '1h'), $then_sleep",
	"SELECT pglock.acquire_all('{k,l}'), $then_sleep",
	"DO \$\$ BEGIN PERFORM pglock.acquire('k'); EXCEPTION WHEN OTHERS THEN PERFORM $then_sleep; END \$\$",
	"BEGIN\\; SELECT pglock.acquire('k', scope => 'transaction')\\; SELECT $then_sleep",
	"CALL pglock.lock('k')",
	"CALL pglock.lock('k')\\; SELECT $then_sleep",
	"SELECT pglock.acquire_slot('k', 1), $then_sleep",
	"SELECT pglock.acquire_slot('k', 2), $then_sleep",
	"SELECT pglock.acquire_slot('k', 2, '1h', 'transaction'), $then_sleep",
	"CALL pglock.slot('k', 2)\\; SELECT $then_sleep")
{
	my $dead = session($node);
	my $dead_pid = $dead->query('SET pglock.warnings = off; SELECT pg_backend_pid()');

	is($waiter->query("SELECT pglock.acquire('k'), pglock.acquire_slot('k', 1), pglock.acquire_slot('k', 2)"), 't|1|2', 'a session holds the lock, and both slots');
	start_waiting($dead, $call);
	wait_for_waiter($node, 'k');
	$dead->{run}->signal('KILL');
	eval { $dead->{run}->finish; };
	is($node->safe_psql('postgres', "SELECT count(*) $advisory AND pid = $dead_pid"),
		'1', "$call: its client is dead, it still waits");
	is($waiter->query('SELECT pglock.release_all()'), '3', 'the holder releases');
	wait_for_session_end($node, $dead_pid);
	is($waiter->query("SELECT pglock.is_free('k'), pglock.is_free('l'), (SELECT count(*) $advisory)"),
		't|t|0', "$call: the session has ended, the locks are free");
}

# The control: with the built-in function the session goes on, and holds the lock for nobody.
my $dead = session($node);
my $dead_pid = $dead->query('SELECT pg_backend_pid()');

is($waiter->query("SELECT pglock.acquire('k')"), 't', 'a session holds the lock');
start_waiting($dead, "SELECT pg_advisory_lock(pglock.lock_id('k')), $then_sleep");
wait_for_waiter($node, 'k');
$dead->{run}->signal('KILL');
eval { $dead->{run}->finish; };
is($waiter->query("SELECT pglock.release('k')"), 't', 'the holder releases');
ok( $node->poll_query_until('postgres',
		"SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $dead_pid"),
	'control: after pg_advisory_lock() the session of a dead client goes on');
is($waiter->query("SELECT pglock.holders('k')"), $dead_pid, '... and holds the lock');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($dead_pid)");
wait_for_session_end($node, $dead_pid);

# DISCARD ALL
is($waiter->query("SELECT pglock.acquire('k'), pglock.acquire('k'), pglock.acquire('s', shared => true)"),
	't|t|t', 'a session holds locks');
$waiter->query('DISCARD ALL');
is($node->safe_psql('postgres', "SELECT pglock.is_free('k'), pglock.is_free('s')"), 't|t', 'DISCARD ALL frees them');
is( $waiter->query("SELECT pglock.held('k'), (SELECT count(*) FROM pglock.session_holds()),
		(SELECT count(*) FROM pglock.locks), pglock.release('k'), pglock.release_all()"),
	'f|0|0|f|0', '... and leaves no phantom');
is($waiter->query("SELECT pglock.acquire('k')"), 't', 'the lock is taken again');
is($waiter->query("SELECT key, depth, scope FROM pglock.locks"), 'k|1|session', '... once');
is($waiter->query("SELECT pglock.release('k'), pglock.release('k')"), 't|f', '... and released once');
end_session($waiter);

# A crash of the holder's backend takes the server down, and its locks with it.
($holder, $pid) = new_holder();
$waiter = session($node);
start_waiting($waiter, "SELECT pglock.acquire('k')");
wait_for_waiter($node, 'k');

my $crashed = $pid;

kill 'KILL', $pid;
$node->poll_query_until('postgres', "SELECT pg_postmaster_start_time() IS NOT NULL
	AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)")
  or die 'the server does not come back';
is($node->safe_psql('postgres', "SELECT count(*) $advisory"), '0', 'after a crash nobody holds anything');
is($node->safe_psql('postgres', "SELECT pglock.try('k'), pglock.try('s')"), 't|t', '... and locks can be taken');
end_session($holder, $waiter);

# An immediate stop.
($holder, $pid) = new_holder();
$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', "SELECT count(*) $advisory"), '0', 'after an immediate stop nobody holds anything');
is($node->safe_psql('postgres', "SELECT pglock.try('k'), pglock.try('s')"), 't|t', '... and locks can be taken');
end_session($holder);

stop_and_check_log($node, killed => [$crashed]);
done_testing();
