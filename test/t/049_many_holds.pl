# A session that holds many locks does not pay for them where it does nothing with them: not with a statement in a
# block, nor with a rollback, however many savepoints and cursors that ends.
#
# The measure is what that costs with as many locks of the built-in functions, in the same server.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use List::Util qw(min);
use PgLock;
use Test::More;

use constant {
	HOLDS => 5000,
	PARTS => 1000,    # of a transaction
	TRIES => 2,
	# the machine may be busy
	MOST_ROUNDS => 6,
};

my $node = new_server('many_holds', conf => <<'END_OF_CONF');
shared_preload_libraries = postgres_lock
max_locks_per_transaction = 400
autovacuum = off
fsync = off
END_OF_CONF

# By the ways to take that lock
my %take = (ours => "pglock.acquire('k' || i)", builtin => 'pg_advisory_lock(i)');
# one message, or else most of the time is the client's
my $statements = join(' \; ', ('SELECT 1') x PARTS) . " \\g /dev/null\n";

# What is measured, what comes before it, and how many times what it costs the built-in functions it may cost.
my @cases = (
	[ 'statements in a block', 'BEGIN;', $statements, 4 ],
	[ 'a rollback of savepoints', join("\n", 'BEGIN;', map { "SAVEPOINT s$_;" } 1 .. PARTS), 'ROLLBACK;', 5 ],
	[
		'a rollback of cursors',
		join("\n", 'BEGIN;', map { "DECLARE c$_ CURSOR FOR SELECT 1;" } 1 .. PARTS),
		'ROLLBACK;', 5
	]);

# How many microseconds that takes in a session that holds the locks; the least of some tries.
sub microseconds
{
	my ($take, $before, $measured) = @_;
	my $try = <<"END_OF_SQL";
$before
SELECT clock_timestamp() AS start \\gset
$measured
SELECT round(1e6 * extract(epoch FROM clock_timestamp() - :'start'));
ROLLBACK;
END_OF_SQL
	my ($output) = run_psqls($node, "SELECT count($take) FROM generate_series(1, @{[ HOLDS ]}) AS i;\n" . $try x TRIES, 1);
	my ($held, @times) = split /\n/, $output;

	is($held, HOLDS, '(the locks are held)');
	return min @times;
}

foreach my $case (@cases)
{
	my ($name, $before, $measured, $bar) = @$case;
	my (%times, %least);

	foreach (1 .. MOST_ROUNDS)
	{
		push @{ $times{$_} }, microseconds($take{$_}, $before, $measured) foreach sort keys %take;
		%least = map { $_ => min @{ $times{$_} } } keys %take;
		last if $least{ours} <= $bar * $least{builtin};
	}
	cmp_ok($least{ours}, '<=', $bar * $least{builtin},
		"$name: with @{[ HOLDS ]} locks held $least{ours} us, and $least{builtin} us with as many built-in ones");
}

stop_and_check_log($node);
done_testing();
