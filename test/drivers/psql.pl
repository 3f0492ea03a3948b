# psql: a worker like those of the drivers (see test/perl/Worker.pm), for those who type their locks.

use v5.36;
use FindBin;
use IPC::Open2;

require "$FindBin::RealBin/worker.pl";

my $block = blocks({ lock => \&lock_and_release, run => \&run_and_answer }, sub { });
my $pid = open2(my $answers, my $statements, qw(psql -X -q -A -t));

# What a statement answers, and its SQLSTATE: nothing if the server has gone.
sub run ($sql)
{
	my $answer = '';

	say $statements "$sql;\n\\echo SQLSTATE :SQLSTATE";
	while (defined(my $line = <$answers>))
	{
		return ($answer, $1) if $line =~ /^SQLSTATE (.*)$/;
		$answer .= $line;
	}
	die "psql has ended\n";
}

sub quoted ($text)
{
	return length $text ? "'" . $text =~ s/'/''/gr . "'" : 'NULL';
}

sub lock_and_release ($key, $type, $timeout, $shared, $scope)
{
	my $mode = $shared ? 'true' : 'false';
	my $number_or_name = $type eq 'integer' ? $key : quoted($key);
	my $arguments =
	  join ', ', $number_or_name, quoted(length $timeout ? "$timeout ms" : ''), $mode, quoted($scope);
	my (undef, $state) = run("CALL pglock.lock($arguments)");

	return say "error\t$state" if $state ne '00000';
	say 'held';
	$block->();
	run('SELECT pglock.release(' . quoted($key) . ", $mode)") if $scope eq 'session';
	say 'released';
}

sub run_and_answer ($sql)
{
	my ($answer, $state) = run($sql);

	chomp $answer;
	say $state eq '00000' ? "row\t$answer" : "error\t$state";
}

binmode $_, ':encoding(UTF-8)' foreach $answers, $statements;
$statements->autoflush;
say "ready\t", (run("SELECT :'VERSION_NAME'"))[0] =~ s|\s.*||sr;
$block->();
close $statements;
waitpid $pid, 0;
