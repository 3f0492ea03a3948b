# DBD::Pg. The handle is in autocommit and has RaiseError: `begin_work` begins a transaction.

use v5.36;
use open qw(:std :encoding(UTF-8));
use DBI;
use Time::Seconds;

# [recipe]
sub with_lock ($dbh, $key, $work, %options)
{
	my ($session, $shared) = (($options{scope} // 'session') eq 'session', $options{shared} ? 1 : 0);
	my $take = $dbh->prepare(
		$session ? 'CALL pglock.lock(?, ?, ?)' : "SELECT pglock.acquire(?, ?, ?, 'transaction')");
	$take->execute($key, $options{timeout}, $shared);
	die "no lock $key\n" unless $session || $take->fetchrow_array;

	my $done = eval { $work->(); 1 };
	my $error = $@;
	$dbh->rollback unless $done || $dbh->{AutoCommit};
	$dbh->do('SELECT pglock.release(?, ?)', undef, $key, $shared) if $session;
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

# a worker: see test/perl/Worker.pm
my $dbh = DBI->connect('dbi:Pg:', undef, undef, { AutoCommit => 1, RaiseError => 1, PrintError => 0, PrintWarn => 0 });

my %commands = (
	lock => sub ($key, $type, $timeout, $shared, $scope) {
		my %options = (shared => $shared eq 'shared', scope => $scope);

		$options{timeout} = Time::Seconds->new($timeout / 1000) if length $timeout;
		with_lock($dbh, $type eq 'integer' ? $key + 0 : $key, sub { say 'held'; block() }, %options);
		say 'released';
	},
	example => sub {
		example($dbh);
		say 'done';
	},
	transaction => sub {
		begin();
		block();
		$dbh->commit;
		say 'committed';
	},
	begin => \&begin,
	run => sub ($sql) { say "row\t", $dbh->selectrow_array($sql) },
	fail => sub { die "told to fail\n" });

sub begin
{
	$dbh->begin_work;
	say 'begun';
}

# Does what it is told until the end of the block that it is in: true; or of the input: false.
sub block
{
	while (defined(my $line = <STDIN>))
	{
		chomp $line;
		my ($command, @values) = split /\t/, $line, -1;

		return 1 if $command eq 'end';
		next if eval { $commands{$command}->(@values); 1 };
		die $@ if $@ eq "told to fail\n";
		say "error\t", $@ =~ /^no lock/ ? '55P03' : $dbh->state;
	}
	return 0;
}

$| = 1;
$dbh->{pg_server_prepare} = ($ARGV[0] // '') eq 'prepared';
$dbh->{pg_switch_prepared} = 1;
say "ready\t$DBD::Pg::VERSION";
while (1)
{
	my $more = eval { block() } // (say('failed'), 1);

	last unless $more;
}
$dbh->disconnect;
