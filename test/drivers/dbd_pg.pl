# DBD::Pg. The handle is in autocommit and has RaiseError: `begin_work` begins a transaction.

use v5.36;
use DBI;
use FindBin;
use Time::HiRes 'ualarm';
use Time::Seconds;

require "$FindBin::RealBin/worker.pl";

# [recipe]
sub with_lock ($dbh, $key, $work, %options)
{
	my ($scope, $shared) = ($options{scope} // 'session', $options{shared} ? 1 : 0);
	my $take = $dbh->prepare('CALL pglock.lock(?, ?, ?, ?)');
	my $done = eval { $take->execute($key, $options{timeout}, $shared, $scope); $work->(); 1 };
	my $error = $@;

	# a signal handler that dies does so when the call has ended: ask that, not $done
	if (($take->{pg_cmd_status} // '') eq 'CALL')
	{
		my $given_back = eval {
			$dbh->rollback unless $done || $dbh->{AutoCommit};
			$dbh->do('SELECT pglock.release(?, ?)', undef, $key, $shared) if $scope eq 'session';
			1;
		};
		$dbh->disconnect unless $given_back;
	}
	die $error unless $done;
}
# [end]

sub example ($dbh)
{
	# [example]
	with_lock($dbh, 'order:42', sub { $dbh->do("UPDATE orders SET state = 'paid' WHERE id = 42") },
		timeout => Time::Seconds->new(5));
	# [end]
}

# the driver, for the tests
my ($dbh, $block);

sub connect_anew
{
	$dbh = DBI->connect('dbi:Pg:', undef, undef, { AutoCommit => 1, RaiseError => 1, PrintError => 0, PrintWarn => 0 });
	$dbh->{pg_server_prepare} = ($ARGV[0] // '') eq 'prepared';
	$dbh->{pg_switch_prepared} = 1;
}

my %commands = (
	lock => sub ($key, $type, $timeout, $shared, $scope) {
		my %options = (shared => $shared eq 'shared', scope => $scope);

		$options{timeout} = Time::Seconds->new($timeout / 1000) if length $timeout;
		with_lock($dbh, $type eq 'integer' ? $key + 0 : $key, sub { say 'held'; $block->() }, %options);
		say 'released';
	},
	example => sub {
		example($dbh);
		say 'done';
	},
	transaction => sub {
		begin();
		eval { $block->(); $dbh->commit; 1 } or $dbh->rollback, die $@;
		say 'committed';
	},
	begin => \&begin,
	interrupt => sub ($how, $rounds, $microseconds, $manner) {
		say join "\t", 'interrupted', interrupt($rounds, $microseconds, $manner eq 'bare');
	},
	run => sub ($sql) { say "row\t", $dbh->selectrow_array($sql) },
	fail => sub { die "told to fail\n" });

sub begin
{
	$dbh->begin_work;
	say 'begun';
}

# Has a signal handler die while a lock is taken, and counts what comes of it.
sub interrupt ($rounds, $microseconds, $bare)
{
	my ($interrupted, $left, $closed) = (0, 0, 0);
	local $SIG{ALRM} = sub { die "interrupted\n" };

	for (; $rounds > 0 && !($bare && $left); $rounds--)
	{
		if (eval { take_once($bare, 1 + int rand $microseconds); 1 })
		{
			$dbh->do('SELECT pglock.release_all()') if $bare;
			next;
		}
		die $@ unless $@ eq "interrupted\n";
		$interrupted++;
		if ($dbh->ping)
		{
			$left += $dbh->selectrow_array(
				"SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'");
			$dbh->do('SELECT pglock.release_all()');
		}
		else
		{
			$closed++;
			connect_anew();
		}
	}
	return ($interrupted, $left, $closed);
}

sub take_once ($bare, $microseconds)
{
	ualarm $microseconds;
	if ($bare)
	{
		$dbh->do("SELECT pglock.acquire('raced', '60s')");
	}
	else
	{
		with_lock($dbh, 'raced', sub { ualarm 0 }, timeout => Time::Seconds->new(60));
	}
	ualarm 0;
	return;
}

$block = blocks(\%commands, sub ($error) { $error ne "told to fail\n" && $dbh->state });
connect_anew();
say "ready\t$DBD::Pg::VERSION";
while (1)
{
	my $more = eval { $block->() } // (say('failed'), 1);

	last unless $more;
}
$dbh->disconnect;
