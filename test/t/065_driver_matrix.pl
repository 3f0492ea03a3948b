# Every driver's locks are every other driver's locks, and psql's: while one holds a lock by its recipe, another
# is refused, waits in vain, waits, and gets it. The table has a row for each holder, and a column for each who
# wants the lock.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Drivers;
use PgLock;
use Test::More;

my $node = new_driver_server('driver_matrix');
my %workers = start_workers();
my $observer = start_worker('psql');

ok($observer->is_ready, 'so is the one who looks on');

my @names = driver_names();
my @table;

foreach my $row (0 .. $#names)
{
	push @table, [ $row + 1, $names[$row], map { cell($names[$row], $_) } @names ];
}
print_table([ '', 'holder', 1 .. @names ], @table);

sub cell
{
	my ($holder, $other) = @_;

	return '' if $holder eq $other;
	return '?' unless $workers{$holder} && $workers{$other};
	return excludes($workers{$holder}, $workers{$other}) ? 'ok' : 'FAILED';
}

# The answers of both, in the order in which they have to come.
sub excludes
{
	my ($holder, $other) = @_;
	my $key = $holder->name . ' and ' . $other->name;
	my @answers = (
		$holder->take($key),
		$other->take($key, timeout => 0),
		$other->take($key, timeout => 10));

	$other->start_taking($key, timeout => 3_600_000);
	$other->wait_until_waiting($observer);
	push @answers, holders($key) eq $holder->session ? 'waits' : 'waits for nobody', $holder->leave, $other->answer,
	  holders($key) eq $other->session ? 'alone' : 'not alone', $other->leave;
	return is(
		join(' ', map { s/\t/ /r } @answers),
		'held error 55P03 error 55P03 waits released held alone released',
		$holder->name . ' excludes ' . $other->name);
}

sub holders
{
	my ($key) = @_;

	return $observer->run("SELECT string_agg(pid::text, ' ') FROM pglock.holders('$key') AS pid");
}

is($node->safe_psql('postgres', 'SELECT count(*) FROM pglock.locks'), 0, 'no lock is left');
stop_workers(values %workers, $observer);
stop_and_check_log($node);
done_testing();
