# DBD::Pg. The handle is in autocommit and has RaiseError. Times are in seconds. Perl has no threads that could renew the
# lease: the work calls $held, which does so when it is due, between transactions.

use v5.36;
use DBI;
use FindBin;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC usleep);

require "$FindBin::RealBin/worker.pl";

# [recipe]
sub with_lease ($dbh, $key, $work, %options)
{
	my $ttl = $options{ttl} // 30;
	my $ask = sub ($call, @values) { ($dbh->selectrow_array($call, undef, $key, @values))[0] };
	my $now = sub { clock_gettime(CLOCK_MONOTONIC) };
	my $take = 'CALL pglock.lease(?, make_interval(secs => ?), make_interval(secs => ?))';
	my $token = $ask->($take, $ttl, $options{timeout});
	my ($sent, $until);
	my $renew = sub {
		$sent = $now->();
		$until = $ask->('SELECT pglock.renew_lease(?, ?)', $token) ? $sent + 0.9 * $ttl : 0;
	};
	my $held = sub {
		return 0 if $now->() >= $until;
		# if it fails, the next may succeed
		eval { $renew->(); 1 } or $dbh->err or die $@ if $now->() >= $sent + $ttl / 3;
		return $now->() < $until;
	};
	my $done = eval { $renew->(); $work->($token, $held); 1 };
	my $error = $@;
	my $released = eval {
		$dbh->rollback unless $dbh->{AutoCommit};
		$ask->('SELECT pglock.release_lease(?, ?)', $token);
		1;
	};
	die($done ? $@ : $error) unless $done && $released;
}
# [end]

sub example ($dbh)
{
	# [example]
	with_lease($dbh, 'billing', sub ($token, $held) {
		foreach my $order (42, 43)
		{
			die "the lease could not be renewed\n" unless $held->();
			$dbh->begin_work;
			$dbh->do('SELECT pglock.check_lease(?, ?)', undef, 'billing', $token);
			$dbh->do("UPDATE orders SET state = 'paid' WHERE id = ?", undef, $order);
			$dbh->commit;
		}
	});
	# [end]
}

# the driver, for the tests
my $dbh = DBI->connect('dbi:Pg:', undef, undef, { AutoCommit => 1, RaiseError => 1, PrintError => 0, PrintWarn => 0 });
my ($block, $is_held);

my %commands = (
	lease => sub ($key, $ttl, $timeout) {
		my %options = (ttl => $ttl / 1000, timeout => length $timeout ? $timeout / 1000 : undef);
		my $work = sub ($token, $held) {
			$is_held = $held;
			say "held\t$token";
			$block->($held);
		};

		eval { with_lease($dbh, $key, $work, %options); 1 } or $@ eq "lost\n" or die $@;
		say $@ ? 'lost' : 'released';
	},
	lose => sub {
		usleep(10_000) while $is_held->();
		die "lost\n";
	},
	write => sub ($key, $token) {
		$dbh->begin_work;
		$dbh->do('SELECT pglock.check_lease(?, ?)', undef, $key, $token);
		$dbh->do('INSERT INTO written VALUES (?)', undef, $key);
		$dbh->commit;
		say 'written';
	},
	example => sub {
		example($dbh);
		say 'done';
	});

# of a command that failed, whose transaction is rolled back
sub sqlstate ($error)
{
	my $state = $error =~ /^DBD::Pg/ ? $dbh->state : undef;

	$dbh->rollback unless $dbh->{AutoCommit};
	return $state;
}

$block = blocks(\%commands, \&sqlstate);
say "ready\t$DBD::Pg::VERSION";
$block->();
$dbh->disconnect;
