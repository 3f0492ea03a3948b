# psql: a worker like those of the drivers (see test/perl/Worker.pm), for those who type their locks.

use v5.36;
use IPC::Open2;

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
	block();
	run('SELECT pglock.release(' . quoted($key) . ", $mode)") if $scope eq 'session';
	say 'released';
}

# Does what it is told until the end of the block that it is in.
sub block
{
	while (defined(my $line = <STDIN>))
	{
		chomp $line;
		my ($command, @values) = split /\t/, $line, -1;

		return if $command eq 'end';
		if ($command eq 'lock')
		{
			lock_and_release(@values);
		}
		elsif ($command eq 'run')
		{
			my ($answer, $state) = run(@values);

			chomp $answer;
			say $state eq '00000' ? "row\t$answer" : "error\t$state";
		}
		else
		{
			die "psql does not know how to $command\n";
		}
	}
}

$| = 1;
$statements->autoflush;
say "ready\t", (run("SELECT :'VERSION_NAME'"))[0] =~ s|\s.*||sr;
block();
close $statements;
waitpid $pid, 0;
