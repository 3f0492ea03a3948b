# Several clients insert "the next number, if it is not there" under a lock. The control shows the
# race: released before COMMIT the lock does not protect, as the next holder does not see the row.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

use constant {
	CLIENTS => 6,
	TRANSACTIONS => 150,    # of each client in one batch
	MOST_BATCHES => 20,
};

my $node = new_server('duplicates', conf => "fsync = off\n");

$node->safe_psql('postgres', <<'END');
CREATE TABLE numbers (number int);
CREATE TABLE counter (value int);
INSERT INTO counter VALUES (0);
END

# Runs the script in all clients; every transaction of theirs has to succeed.
sub run_clients
{
	my ($name, $script) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/script.sql';
	my $all = CLIENTS * TRANSACTIONS;

	append_to_file($file, $script);
	$node->command_like(
		[ 'pgbench', '-n', '-c', CLIENTS, '-j', 2, '-t', TRANSACTIONS, '-f', $file, 'postgres' ],
		qr{transactions actually processed: $all/$all\b}, "$name: all clients end well");
	is($node->safe_psql('postgres', "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), '0',
		'... and hold nothing');
	return;
}

sub duplicates
{
	return $node->safe_psql('postgres', 'SELECT count(*) - count(DISTINCT number) FROM numbers');
}

# (a new statement, so that READ COMMITTED sees what was committed before the lock was taken)
my $insert = 'INSERT INTO numbers SELECT coalesce(max(number), 0) + 1 FROM numbers;';
my $count = "SELECT value AS value FROM counter \\gset\nUPDATE counter SET value = :value + 1;";

# The control.
my $found = 0;

foreach (1 .. MOST_BATCHES)
{
	run_clients('released before COMMIT', <<"END");
SET pglock.warnings = off;
BEGIN;
SELECT pglock.acquire('numbers');
$insert
SELECT pglock.release('numbers');
COMMIT;
END
	$found = duplicates();
	last if $found > 0;
}
cmp_ok($found, '>', 0, 'control: released before COMMIT the lock does not protect');

my %ways = (
	'session scope, released after COMMIT' => [
		"SELECT pglock.acquire('numbers');\nBEGIN;", "COMMIT;\nSELECT pglock.release('numbers');" ],
	'CALL lock, released after COMMIT' => [
		"CALL pglock.lock('numbers');\nBEGIN;", "COMMIT;\nSELECT pglock.release('numbers');" ],
	'acquired in the transaction, released after COMMIT' => [
		"BEGIN;\nSELECT pglock.acquire('numbers', '1h');", "COMMIT;\nSELECT pglock.release('numbers');" ],
	'transaction scope' => [
		"BEGIN;\nSELECT pglock.acquire('numbers', scope => 'transaction');", 'COMMIT;' ],
	'acquire_all' => [
		"BEGIN;\nSELECT pglock.acquire_all('{numbers,others}', scope => 'transaction');", 'COMMIT;' ],
);

foreach my $way (sort keys %ways)
{
	my ($before, $after) = @{ $ways{$way} };

	$node->safe_psql('postgres', 'TRUNCATE numbers; UPDATE counter SET value = 0');
	run_clients($way, "$before\n$insert\n$count\n$after\n");
	is(duplicates(), '0', "$way: no duplicates");
	is($node->safe_psql('postgres', 'SELECT max(number) FROM numbers'), CLIENTS * TRANSACTIONS,
		'... and no row is missing');
	is($node->safe_psql('postgres', 'SELECT value FROM counter'), CLIENTS * TRANSACTIONS,
		'... and a counter that is read and written loses nothing');
}

stop_and_check_log($node);
done_testing();
