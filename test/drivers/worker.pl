# The Perl drivers' half of the workers' protocol (see test/perl/Worker.pm).

use v5.36;
use IO::Select;

my $commands_in = IO::Select->new(\*STDIN);
my $read = '';

binmode STDIN;  # sysread, which select goes with, knows no encodings
binmode STDOUT, ':encoding(UTF-8)';
$| = 1;

# Returns a function that does what it is told until the end of the block that it is in: true; or of the input: false.
# It calls `idle`, if that is given, again and again until it is told something. What a command dies of is an SQLSTATE,
# or ends all blocks.
sub blocks ($commands, $sqlstate)
{
	return sub ($idle = undef) {
		while (defined(my $line = next_line($idle)))
		{
			my ($command, @values) = split /\t/, $line, -1;

			return 1 if $command eq 'end';
			die "nobody knows how to $command\n" unless $commands->{$command};
			next if eval { $commands->{$command}->(@values); 1 };

			my $error = $@;
			my $state = $sqlstate->($error) || die $error;

			say "error\t$state";
		}
		return 0;
	};
}

sub next_line ($idle)
{
	until ($read =~ /\n/)
	{
		$idle->() until !$idle || $commands_in->can_read(0.01);
		sysread(STDIN, $read, 4096, length $read) or return;
	}
	$read =~ s/^(.*)\n//;
	utf8::decode(my $line = $1);
	return $line;
}

1;
