# The wall clock of the server is set an hour ahead and an hour back while leases are held: nobody gets a lease
# that has not expired, and one that has is to be had.
#
# The controls are builds that count by the wall clock.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgInstallation;
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;
use WallClock;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use constant {
	HOUR => 3600,
	LONG => 1800,    # seconds: less than an hour
	SHORT => 1,
};

my $folder = PostgreSQL::Test::Utils::tempdir();
my $clock = WallClock->new;
my $installation = PgInstallation->new("$folder/installation");
my $node = $clock->with(sub { new_server('lease_clock', install_path => $installation->install_path) });

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

	$clock->set($from);

	my $begun = seconds();

	acquire('long', LONG);
	acquire('short', SHORT);
	$clock->set($to);

	# (the timeout counts by the wall clock, which is not set again)
	my ($is_lost, $is_had) = split /\|/, ask("SELECT pglock.try_lease('long') IS NOT NULL, pglock.acquire_lease('short', timeout => '10s') IS NOT NULL");

	return ($is_lost, $is_had, seconds() - $begun);
}

# The clock is set ahead after a restart, before anybody has looked at the lease. Returns whether another got it.
sub set_after_restart
{
	$clock->set(0);
	acquire('restarted', LONG);
	$clock->with(sub { $node->restart });
	$clock->set(HOUR);
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
	$clock->set(0);

	my $token = acquire($key, LONG);

	start_waiting($waiter, "SELECT pglock.acquire_lease($key)");
	$node->poll_query_until('postgres', "SELECT waiters = 1 FROM pglock.leases WHERE key = '$key'") or die 'nobody waits';
	$clock->set($to);
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
