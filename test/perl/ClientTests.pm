# ClientTests: builds the tests of the C++ client, and makes theirs ours.
#
# CXX and SANITIZE (address,undefined) in the environment are for the compiler.

package ClientTests;

use strict;
use warnings;
use Cwd 'abs_path';
use Exporter 'import';
use File::Basename;
use IPC::Run;
use Test::More;

our @EXPORT = qw(succeeds make_tests run_tests);

my $source = abs_path(dirname(__FILE__) . '/../client');

# libpqxx 6 loses the result that tells it of a broken connection
$ENV{LSAN_OPTIONS} = "suppressions=$source/leaks.txt:print_suppressions=0";

# Does the command succeed? Shows what it says if not.
sub succeeds
{
	my ($title, @command) = @_;
	my ($stdout, $stderr);
	my $succeeded = IPC::Run::run(\@command, '<', \undef, '>', \$stdout, '2>', \$stderr);

	ok($succeeded, $title) or diag($stdout . $stderr);
	return $stdout;
}

# Builds a target of their Makefile in the folder `build`. `sanitize`: with another sanitizer than that of
# the environment.
sub make_tests
{
	my ($title, $build, $target, $sanitize) = @_;
	chomp(my $jobs = `nproc`);
	my @make = ('make', '-s', "-j$jobs", '-C', $source, "BUILD=$build", 'CXX=' . ($ENV{CXX} // 'g++'));

	$sanitize //= $ENV{SANITIZE};
	push @make, "SANITIZE=$sanitize" if $sanitize;
	succeeds($title, @make, $target);
	return;
}

# The tests of a program become tests here: all of them, or those that its options choose.
sub run_tests
{
	my ($program, @options) = @_;
	my $name = basename($program);
	my ($output, $passed) = ('', 0);
	my $succeeded = IPC::Run::run([ $program, '--gtest_color=no', @options ], '<', \undef, '>&', \$output);

	while ($output =~ /^\[ +(OK|FAILED) +\] (\S+?)(?:,.*)? \(\d+ ms\)$/mg)
	{
		ok($1 eq 'OK', $2);
		$passed++ if $1 eq 'OK';
	}
	my ($planned) = $output =~ /^\[=+\] Running (\d+) tests/m;
	# some need what a sanitizer takes away
	my $skipped = $ENV{SANITIZE} ? () = $output =~ /^\[ +SKIPPED +\] \S+ \(\d+ ms\)$/mg : 0;

	is($passed + $skipped, $planned, "$name: all of them ran");
	ok($succeeded, "$name: ends well") or diag($output);
	return;
}

1;
