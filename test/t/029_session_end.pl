# Sessions that wait for a lock, in every way to wait, are ended, in every way to end them: that takes nobody
# else with it, leaves nothing held, and their waits are counted by the right key.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use Protocol;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = new_server('session_end', conf => <<'END');
shared_preload_libraries = postgres_lock
client_connection_check_interval = 10ms
max_locks_per_transaction = 400
log_min_messages = log
END

# Many keys need memory of their own, which is gone as soon as it is freed.
my $keys = q{ARRAY(SELECT 'key' || i FROM generate_series(1, 10000) i)};
# the one of them that is taken first
my $key = $node->safe_psql('postgres', "SELECT key FROM unnest($keys) key ORDER BY pglock.lock_id(key) LIMIT 1");
my @tables = ('no temporary table', 'a temporary table before the first wait', '... after it');
my ($checker, $holder);

# A session's call that waits, once for each: as [text of it, SQL].
sub waiting_calls
{
	my @calls;

	# leases have no scope
	push @calls, "SELECT pglock.acquire_lease('$key', '1ms', $_)", "CALL pglock.lease('$key', '1ms', $_)" foreach 'NULL', "'1h'";
	foreach my $scope ('session', 'transaction')
	{
		foreach my $timeout ("timeout => NULL", "timeout => '1h'")
		{
			my $how = "$timeout, scope => '$scope')";

			push @calls, map { $scope eq 'session' ? $_ : "BEGIN; $_" } (
				"SELECT pglock.acquire('$key', $how",
				"SELECT pglock.acquire_raw(pglock.lock_id('$key'), $how",
				"SELECT pglock.acquire_all($keys, $how",
				"CALL pglock.lock('$key', $how",
				"CALL pglock.lock_raw(pglock.lock_id('$key'), $how",
				"SELECT pglock.acquire_slot('$key', 2, $how",
				"CALL pglock.slot('$key', 2, $how");
		}
	}
	return @calls;
}

# One session for each call and each place of a temporary table, in which the call is made; `then`: what the
# client sends right after it.
sub start_sessions
{
	my (%way) = @_;
	my @sessions;

	foreach my $call (waiting_calls())
	{
		foreach my $table (0 .. $#tables)
		{
			my $session = Protocol->new($node, 'pglock.warnings' => 'off', %{ $way{settings} // {} });
			my $create = 'CREATE TEMPORARY TABLE t (i integer)';

			$session->query($create) if $table == 1;
			$session->query("SELECT pglock.acquire('$key', '1ms'), pglock.try('of ' || pg_backend_pid())");
			$session->query($create) if $table == 2;
			# one message for each statement: a block that is begun is not to hold the call's error
			$session->query($_) foreach split /; /, $call;
			$way{then}->($session) if $way{then};
			$session->send;
			push @sessions, $session;
		}
	}
	return @sessions;
}

sub poll
{
	my ($sql) = @_;
	my $answer;

	foreach (1 .. 100 * $PostgreSQL::Test::Utils::timeout_default)
	{
		$answer = $checker->ask($sql);
		return 1 if $answer eq 't' || $checker->has_ended;
		usleep(10_000);
	}
	return 0;
}

sub pids { return join ', ', map { $_->pid } @_; }

# The lock, both slots, and the lease, which outlives the server
my $give_back = "SELECT pglock.release_all(), pglock.revoke_lease('$key')";

sub hold_all
{
	$checker->ask("SELECT pglock.revoke_lease('$key')");
	return is($holder->ask("SELECT pglock.acquire('$key') AND pglock.acquire_lease('$key', '1h') > 0 AND count(pglock.acquire_slot('$key', 2)) = 2
			FROM generate_series(1, 2)"), 't',
		'(somebody holds the lock)');
}

sub connect_checkers
{
	$checker = Protocol->new($node);
	$holder = Protocol->new($node);
	hold_all();
	$checker->ask('SELECT pglock.contention_reset()');
	return;
}

# There are no statistics without shared memory. Who is granted one of many keys may then wait for others, while
# their last holder gives them back one by one.
sub check_statistics
{
	my ($count, $is_timed) = @_;

	return if $checker->ask('SELECT pglock.registry_size() IS NOT NULL') ne 't';
	is($checker->ask('SELECT key FROM pglock.contention WHERE lock_id IS DISTINCT FROM pglock.lock_id(key)'),
		'', '... each wait is counted by its key');
	# who was ended by the time may not yet have waited
	is($checker->ask("SELECT sum(waits) FROM pglock.contention WHERE key = '$key'"), $count, '... and once') if !$is_timed;
	return;
}

sub check_end
{
	my ($name, @sessions) = @_;

	ok(poll('SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid IN (' . pids(@sessions) . '))'), "$name: the sessions end");
	ok(!$checker->has_ended && !$holder->has_ended, '... and nobody else does')
	  or die 'the server has crashed';
	$holder->ask($give_back);
	is($checker->ask("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), '0', '... nothing is held');
	is($checker->ask('SELECT count(*) FROM pglock.locks'), '0', '... nor shown');
	return;
}

# who has the place in front of those who wait for leases or slots waits, too
my $waits = "wait.locktype = 'advisory' AND (NOT wait.granted OR wait.objsubid IN (4, 5))";
my $all = "(SELECT pid FROM pg_locks AS wait WHERE $waits) AS waiter";
my $soon = '500ms';
my $later = '2s';    # than a session needs to begin its wait
my @ways = (
	{ name => 'pg_terminate_backend', strike => sub { $checker->ask("SELECT pg_terminate_backend(pid) FROM $all"); } },
	{ name => 'client gone', strike => sub { $_->vanish foreach @_; } },
	{
		name => 'cancel, and at once the end',
		strike => sub { $checker->ask("SELECT pg_cancel_backend(pid), pg_terminate_backend(pid) FROM $all"); }
	},
	{
		name => 'grant, and at once the end',
		strike => sub {
			$holder->query($give_back)->send;
			$checker->ask("SELECT pg_terminate_backend(pid) FROM $all");
			$holder->finish;
			$checker->ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid IN (" . pids(@_) . ')');
		}
	},
	{
		name => 'statement_timeout, and the end',
		settings => { statement_timeout => $soon },
		is_timed => 1,
		then => sub { $_[0]->terminate; },
		strike => sub { }
	},
	{
		name => 'end of the transaction, and of the session',
		then => sub { $_[0]->query('COMMIT')->terminate; },
		strike => sub { $holder->ask($give_back); }
	},
	{
		name => 'idle timeouts',
		settings => { idle_session_timeout => $later, idle_in_transaction_session_timeout => $later },
		strike => sub { $checker->ask("SELECT pg_cancel_backend(pid) FROM $all"); }
	});

push @ways,
  { name => 'transaction_timeout', settings => { transaction_timeout => $soon }, is_timed => 1, strike => sub { } }
  if $node->pg_version >= 17;

sub wait_for_all
{
	my @sessions = @_;

	# who holds nothing yet is in its first wait, which passes
	return poll("SELECT count(*) = @{[ scalar @sessions ]} FROM pg_locks AS wait JOIN pg_locks AS own USING (pid)
		WHERE $waits AND own.granted AND own.locktype = 'advisory' AND own.objsubid = 1");
}

foreach my $preloaded (1, 0)
{
	my $kind = $preloaded ? 'preloaded' : 'not preloaded';

	if (!$preloaded)
	{
		$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
		$node->restart;
	}
	connect_checkers();
	foreach my $way (@ways)
	{
		my @sessions = start_sessions(%$way);

		ok(wait_for_all(@sessions), "$kind, $way->{name}: all wait") if !$way->{is_timed};
		$way->{strike}->(@sessions);
		check_end("$kind, $way->{name}", @sessions);
		# each has waited before; waits for leases do not count
		check_statistics(2 * @sessions - @tables * grep({ /lease/ } waiting_calls()), $way->{is_timed});
		$checker->ask('SELECT pglock.contention_reset()');
		hold_all();
	}
	foreach my $mode ('fast', 'immediate')
	{
		my @sessions = start_sessions();

		ok(wait_for_all(@sessions), "$kind, $mode stop: all wait");
		$node->stop($mode);
		is_crash_free($node);
		unlike(slurp_file($node->logfile), qr/abnormal database system shutdown/, '... and the shutdown is a normal one');
		$node->start;
		connect_checkers();
		check_end("$kind, $mode stop", @sessions);
		hold_all();
	}
}

stop_and_check_log($node);
done_testing();
