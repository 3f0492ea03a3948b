# Programs that are interrupted while they take a lock or a slot: by an exception of a signal handler, a cancelled
# task, a timeout of the driver's. The grant and the interruption cross, and the server may have granted a lock of
# which the program knows nothing. With the recipes no lock is left, and no connection that is of no use; the control,
# the bare statement of each driver, shows that it happens.
#
# PGLOCK_INTERRUPTIONS says how often each recipe takes the lock.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Drivers;
use IPC::Run;
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

use constant {
	ROUNDS => $ENV{PGLOCK_INTERRUPTIONS} // 100,
	# the control ends with the first lock that is left, and a recipe goes on until it has been interrupted
	MOST_ROUNDS => 1000,
	# no longer than a worker may be silent
	AT_ONCE => 25,
	# the holder keeps the lock for up to a half of this, and leaves it for as long
	MICROSECONDS => 4000,
};

my $node = new_driver_server('interrupted');
my %workers = start_workers(grep { driver($_)->{interruptions} } driver_names());
my $script = PostgreSQL::Test::Utils::tempdir() . '/holders.sql';
my $half = MICROSECONDS / 2;

append_to_file($script, <<"END");
\\set held random(0, $half)
\\set free random(0, $half)
\\if :client_id = 0
CALL pglock.lock('raced');
\\sleep :held us
SELECT pglock.release('raced');
\\else
CALL pglock.slot('raced', 1);
\\sleep :held us
SELECT pglock.release_slot('raced', 1);
\\endif
\\sleep :free us
END

#
# A holder comes and goes meanwhile, and so does one of the slot
#

my $output;
my $holders = IPC::Run::start([ 'pgbench', '-n', '-c', 2, '-T', 3600, '-f', $script ], '<', \undef, '>&', \$output);
my @table;

foreach my $name (grep { !/ of trixie$/ } driver_names())
{
	my @versions = versions($name);

	foreach my $how (@{ driver($name)->{interruptions} // [] })
	{
		push @table, map { [ $_, $how, '', 'skipped' ] } grep { !$workers{$_} } @versions;
		push @table, raced($how, map { $workers{$_} // () } @versions);
	}
}
print_table([ 'driver', 'interrupted by', 'taking a', 'times', 'connections closed', 'bare: times until a lock was left' ], @table);

sub versions
{
	my ($name) = @_;

	return grep { driver($_) } $name, "$name of trixie";
}

# Races them side by side, and returns rows for the table.
sub raced
{
	my ($how, @workers) = @_;
	my $bare = interrupted($how, 'bare', @workers);
	my $recipe = interrupted($how, 'recipe', @workers);
	my $slot = interrupted($how, 'slot', grep { driver($_->name)->{slots} } @workers);
	my @rows;

	foreach my $worker (@workers)
	{
		my $name = $worker->name;
		my ($bare_times, $bare_left) = @{ $bare->{$name} };
		my %counts = (lock => $recipe->{$name}, slot => $slot->{$name});

		cmp_ok($bare_left, '>', 0, "$name, $how: the bare statement leaves a lock") unless driver($name)->{closes};
		foreach my $what (grep { $counts{$_} } 'lock', 'slot')
		{
			my ($times, $left, $closed) = @{ $counts{$what} };

			cmp_ok($times, '>', 0, "$name, $how: the recipe for a $what is interrupted");
			is($left, 0, '... and leaves none');
			push @rows, [ $name, $how, $what, $times, $closed, $what eq 'lock' ? $bare_times : '' ];
		}
	}
	return @rows;
}

# What each counted in all its rounds: how many times it was interrupted, locks left, and connections closed.
sub interrupted
{
	my ($how, $manner, @workers) = @_;
	my %sums = map { $_->name => [ 0, 0, 0 ] } @workers;
	# the rounds that there have to be, and which of the counts has to become more than 0
	my ($enough, $shown) = $manner eq 'bare' ? (0, 1) : (ROUNDS, 0);

	# one that closes its connection has nothing to show
	@workers = grep { !driver($_->name)->{closes} } @workers if $manner eq 'bare';
	for (my $rounds = AT_ONCE; @workers; $rounds += AT_ONCE)
	{
		$_->send_command('interrupt', $how, AT_ONCE, MICROSECONDS, $manner) foreach @workers;
		foreach my $worker (@workers)
		{
			my (undef, @counts) = split /\t/, $worker->answer;
			my $sum = $sums{ $worker->name };

			$sum->[$_] += $counts[$_] foreach 0 .. 2;
		}
		@workers = grep { $rounds < $enough || $rounds < MOST_ROUNDS && !$sums{ $_->name }[$shown] } @workers;
	}
	return \%sums;
}

$holders->kill_kill(grace => 1);

#
# A cancel that arrives before the call does nothing: the recipe must not wait for the lock all the same
#

my $other = start_worker('psql');

ok($other->is_ready, 'one who holds the lock and keeps it');
is($other->take('raced'), 'held', '... holds it');
foreach my $driver ([ 'psycopg 3', 'signal' ], [ 'psycopg 3 async', 'cancel' ], [ 'asyncpg', 'cancel' ])
{
	my ($name, $how) = @$driver;

	cancelled_too_early($_, $how) foreach grep { $workers{$_} } versions($name);
}
$other->leave;
$other->stop;

# A session that is stopped reads neither the call nor the cancel, and finds the cancel first when it goes on.
sub cancelled_too_early
{
	my ($name, $how) = @_;
	my $worker = start_worker($name, 'prepared');

	ok($worker->is_ready, "$name, prepared");
	# what has to be asked before the call can be sent is asked now
	$worker->take('free');
	$worker->leave;
	foreach (1 .. 10)
	{
		$worker->send_command('interrupt', $how, 1, 1e6, 'stopped');
		my $is_cancelled = has_pending_cancel($worker->session);
		kill CONT => $worker->session;
		like($worker->answer, qr/^interrupted\t1\t0\t/, "$name, $how, the cancel before the call: nothing is left");
		# unless it was interrupted before it sent the call
		last if $is_cancelled;
	}
	$worker->stop;
	return;
}

# Waits until a cancel has come.
sub has_pending_cancel
{
	my ($pid) = @_;
	my $until = time + 20;
	my $is_cancelled;

	until ($is_cancelled || time > $until)
	{
		usleep(1000);
		# SIGINT is the second of the signals
		$is_cancelled = slurp_file("/proc/$pid/status") =~ /^ShdPnd:\s*[0-9a-f]*[2367abef]$/m;
	}
	return $is_cancelled;
}

# what waits for a client that has gone gets the lock, and ends
ok( $node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory'"),
	'no lock is held at the end');
stop_workers(values %workers);
stop_and_check_log($node);
done_testing();
