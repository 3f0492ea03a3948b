# The wall clock of the server is set an hour ahead and an hour back while leases are held: nobody gets a lease
# that has not expired, and one that has is to be had.
#
# A library that is preloaded into the server shifts what it is told of the wall clock, and no other clock. The
# controls are builds that count by the wall clock.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgInstallation;
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use constant {
	HOUR => 3600,
	LONG => 1800,    # seconds: less than an hour
	SHORT => 1,
};

my $folder = PostgreSQL::Test::Utils::tempdir();
my $shift_file = "$folder/shift";

#
# A server whose wall clock can be set
#

append_to_file("$folder/shift.cpp", <<'END_OF_CPP');
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

/* by how many seconds the wall clock is ahead: the content of a file */
static const volatile int64_t *
ahead()
{
	static const int file = open(getenv("SHIFT_FILE"), O_RDONLY);
	static void *const content = mmap(nullptr, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);

	return static_cast<const int64_t *>(content);
}

extern "C" int
clock_gettime(clockid_t clock, timespec *time) noexcept
{
	auto result = static_cast<int>(syscall(SYS_clock_gettime, clock, time));

	if (result == 0 && clock == CLOCK_REALTIME)
		time->tv_sec += *ahead();
	return result;
}

extern "C" int
gettimeofday(timeval *time, void *) noexcept
{
	timespec now;
	int result = clock_gettime(CLOCK_REALTIME, &now);

	*time = {now.tv_sec, now.tv_nsec / 1000};
	return result;
}

extern "C" time_t
time(time_t *time) noexcept
{
	timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (time != nullptr)
		*time = now.tv_sec;
	return now.tv_sec;
}
END_OF_CPP
system_or_bail($ENV{CXX} // 'g++', '-shared', '-fPIC', '-fno-threadsafe-statics', '-o', "$folder/shift.so", "$folder/shift.cpp");
append_to_file($shift_file, pack 'q', 0);

sub set_clock
{
	my ($seconds) = @_;

	# the same file, which servers have mapped
	open my $file, '+<', $shift_file or die $!;
	syswrite($file, pack('q', $seconds), 8) == 8 or die $!;
	close $file;
	return;
}

# Does it to a server, as new_server() and restart() do.
sub with_shift
{
	my ($action) = @_;
	local $ENV{LD_PRELOAD} = "$folder/shift.so";
	local $ENV{SHIFT_FILE} = $shift_file;

	return $action->();
}

my $installation = PgInstallation->new("$folder/installation");
my $node = with_shift(sub { new_server('lease_clock', install_path => $installation->install_path) });

sub ask { return $node->safe_psql('postgres', $_[0]); }

# A new lease, in place of one that another test has left
sub acquire
{
	my ($key, $ttl) = @_;

	ask("SELECT pglock.revoke_lease('$key')");
	return ask("SELECT pglock.try_lease('$key', make_interval(secs => $ttl))");
}

sub seconds { return clock_gettime(CLOCK_MONOTONIC); }

# The clock is set from one time to another while leases are held. Returns whether another got the one that has not
# expired, and whether the one that has is to be had soon.
sub set_while_held
{
	my ($from, $to) = @_;

	set_clock($from);

	my $begun = seconds();

	acquire('long', LONG);
	acquire('short', SHORT);
	set_clock($to);

	# (the timeout counts by the wall clock, which is not set again)
	my ($is_lost, $is_had) = split /\|/, ask("SELECT pglock.try_lease('long') IS NOT NULL, pglock.acquire_lease('short', timeout => '10s') IS NOT NULL");

	return ($is_lost, $is_had, seconds() - $begun);
}

# The clock is set ahead after a restart, before anybody has looked at the lease. Returns whether another got it.
sub set_after_restart
{
	set_clock(0);
	acquire('restarted', LONG);
	with_shift(sub { $node->restart });
	set_clock(HOUR);
	return ask("SELECT pglock.try_lease('restarted') IS NOT NULL");
}

foreach my $step ([ 0, HOUR ], [ HOUR, 0 ], [ 0, -HOUR() ], [ -HOUR(), HOUR ])
{
	my ($from, $to) = @$step;
	my ($is_lost, $is_had, $took) = set_while_held($from, $to);
	my ($server_time, $left) = split /\|/,
	  ask("SELECT extract(epoch FROM clock_timestamp()), extract(epoch FROM expires_at - clock_timestamp()) FROM pglock.leases WHERE key = 'long'");

	cmp_ok(abs($server_time - time - $to), '<', HOUR / 2, "the clock was set from $from to $to");
	is($is_lost, 'f', '... nobody gets a lease that has not expired');
	is($is_had, 't', '... one that has is to be had');
	cmp_ok($took, '>=', SHORT, '... and not before');
	cmp_ok($left, '<=', LONG, '... the view counts from the clock as it is now');
	cmp_ok($left, '>', LONG / 2, '... and the lease goes on');
}

# Those who wait
my $waiter = session($node);
my $key = 0;

foreach my $to (HOUR, -HOUR())
{
	$key++;
	set_clock(0);

	my $token = acquire($key, LONG);

	start_waiting($waiter, "SELECT pglock.acquire_lease($key)");
	$node->poll_query_until('postgres', "SELECT waiters = 1 FROM pglock.leases WHERE key = '$key'") or die 'nobody waits';
	set_clock($to);
	is(ask("SELECT pglock.holds_lease($key, $token)"), 't', "set to $to while somebody waits: the lease is held");

	my $begun = seconds();

	is(ask("SELECT pglock.renew_lease($key, $token, make_interval(secs => @{[ SHORT ]}))"), 't', '... it can be renewed');
	is(finish_waiting($waiter), '00000', '... whoever waits gets it');
	cmp_ok(seconds() - $begun, '>=', SHORT, '... when it has expired');
}
end_session($waiter);

is(set_after_restart(), 'f', 'set after a restart: nobody gets a lease that has not expired');

#
# Controls
#

sub install_library
{
	my ($name, $file, $change) = @_;

	$installation->install_library(PgInstallation::build_library("$folder/$name", undef, "src/server/$file" => $change));
	return;
}

install_library('wall_clock', 'steady_clock.hpp', sub { return $_[0] =~ s/CLOCK_BOOTTIME;/CLOCK_REALTIME;/r });
is((set_while_held(0, HOUR))[0], 't', 'control: by the wall clock, set ahead: another gets a lease that has not expired');
is((set_while_held(0, -HOUR()))[1], 'f', 'control: ... set back: one that has expired is not to be had');

install_library('start', 'lease_clock.cpp', sub { return $_[0] =~ s{/proc/}{/none/}r });
is(set_after_restart(), 't', 'control: the start of the server by the wall clock: another gets a lease that has not expired');

stop_and_check_log($node);
done_testing();
