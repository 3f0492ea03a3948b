# Programs with the Python library postgres-lock and programs with this extension exclude each other.
#
# The ids of the library's locks are computed as its source does it, and not by our code.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Digest::SHA 'sha1_hex';
use IPC::Run;
use Math::BigInt;
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

use constant {
	CLIENTS => 3,            # of each kind
	TRANSACTIONS => 150,     # of each client in one batch
	MOST_BATCHES => 20,
};

# the names of other sessions' locks are looked at
my $node = new_server('mixed_fleet', conf => "shared_preload_libraries = 'postgres_lock'\nfsync = off\n");

# int(str(int(hashlib.sha1(key).hexdigest(), 16))[:18])
sub library_id
{
	my ($key) = @_;

	return substr Math::BigInt->from_hex(sha1_hex($key))->bstr, 0, 18;
}

is(library_id('shared-identifier'), '142468548502040132', 'the id of a lock of the library');

#
# Every mode and scope
#

# What Lock(conn, key, shared=, scope=) of the library sends for acquire(block=False) and release().
my %library = (
	name => 'the library',
	session => session($node),
	try => sub {
		my ($key, $shared, $scope) = @_;

		return sprintf 'SELECT pg_catalog.pg_try_advisory%s_lock%s(%s)', $scope eq 'session' ? '' : '_xact',
		  $shared ? '_shared' : '', library_id($key);
	},
	release => sub {
		my ($key, $shared) = @_;

		return sprintf 'SELECT pg_catalog.pg_advisory_unlock%s(%s)', $shared ? '_shared' : '', library_id($key);
	});

my %extension = (
	name => 'the extension',
	session => session($node),
	try => sub {
		my ($key, $shared, $scope) = @_;

		return sprintf "SELECT pglock.try(%s, shared => %s, scope => '%s')", quote($key), $shared ? 'true' : 'false', $scope;
	},
	release => sub { return sprintf 'SELECT pglock.release(%s)', quote($_[0]); });

sub quote { return "'" . $_[0] =~ s/'/''/gr . "'"; }

# Does the program get the lock? It gives it back.
sub gets
{
	my ($program, $key, $shared, $scope) = @_;
	my $answer = $program->{session}->query_safe('BEGIN; ' . $program->{try}->($key, $shared, $scope) . '; COMMIT');

	$program->{session}->query_safe($program->{release}->($key, $shared)) if $answer eq 't' && $scope eq 'session';
	return $answer;
}

my @ways = ([ 0, 'session' ], [ 0, 'transaction' ], [ 1, 'session' ], [ 1, 'transaction' ]);

# One program holds the lock of the key in its way, the other tries to get it in others.
sub meet
{
	my ($key, $holder, $other, $held, @tried) = @_;
	my ($shared, $scope) = @$held;
	my $name = length $key > 40 ? length($key) . ' bytes' : "'$key'";
	my $session = $holder->{session};

	is($session->query_safe('BEGIN; ' . $holder->{try}->($key, $shared, $scope)), 't',
		"$holder->{name} holds $name, $scope" . ($shared ? ', shared' : ''));
	is_deeply([ map { gets($other, $key, @$_) } @tried ], [ map { $shared && $_->[0] ? 't' : 'f' } @tried ],
		"... $other->{name} gets it if both share, and not otherwise");
	$session->query_safe('COMMIT');
	$session->query_safe($holder->{release}->($key, $shared)) if $scope eq 'session';
	is(gets($other, $key, 0, 'transaction'), 't', '... and when it was given back');
	return;
}

# keys that are hard to get right, and ids that begin with each digit
my @keys = ('', ' ', '5', '0005', "it's", "tab\tand\nline", 'café', "cafe\xcc\x81", 'ключ', '日本語', '😀', 'a' x 100_000);

foreach my $digit (1 .. 9)
{
	my $number = 1;

	$number++ while library_id("order:$number") !~ /^$digit/;
	push @keys, "order:$number";
}

foreach my $pair ([ \%library, \%extension ], [ \%extension, \%library ])
{
	meet('shared-identifier', @$pair, $_, @ways) foreach @ways;
	meet($_, @$pair, $ways[0], $ways[0]) foreach @keys;
}

#
# Waiting
#

my ($old, $new) = ($library{session}, $extension{session});
my $id = library_id('queue');

# The waiter has to wait, and gets it when the holder gives it back.
sub gets_in_the_end
{
	my ($waiter, $sql, $holder, $release) = @_;

	start_waiting($waiter, $sql);
	wait_for_waiter($node, 'queue');
	$holder->query_safe($release);
	is(finish_waiting($waiter), '00000', "$sql waits for the other");
	$waiter->query_safe('SELECT pg_advisory_unlock_all()');
	return;
}

$old->query_safe("SELECT pg_catalog.pg_advisory_lock($id)");
is($new->query_safe("SELECT pglock.acquire('queue', timeout => '1ms')"), 'f', 'a timeout, as the library holds it');
is($node->safe_psql('postgres', 'SELECT count(*), count(key) FROM pglock.locks'), '1|0',
	'the lock of the library has no name');
start_waiting($new, "CALL pglock.lock('queue')");
wait_for_waiter($node, 'queue');
is($node->safe_psql('postgres', 'SELECT key FROM pglock.locks WHERE granted'), 'queue',
	'... until somebody waits who knows it');
$old->query_safe("SELECT pg_catalog.pg_advisory_unlock($id)");
is(finish_waiting($new), '00000', '... and who gets it');

gets_in_the_end($old, "SELECT pg_catalog.pg_advisory_lock($id)", $new, "SELECT pglock.release('queue')");
$new->query_safe("BEGIN; SELECT pglock.acquire('queue', shared => true, scope => 'transaction')");
gets_in_the_end($old, "SELECT pg_catalog.pg_advisory_lock($id)", $new, 'COMMIT');
$old->query_safe("BEGIN; SELECT pg_catalog.pg_advisory_xact_lock($id)");
gets_in_the_end($new, "SELECT pglock.acquire('queue', shared => true)", $old, 'ROLLBACK');
$old->query_safe("BEGIN; SELECT pg_catalog.pg_advisory_xact_lock_shared($id)");
gets_in_the_end($new, "SELECT pglock.acquire('queue')", $old, 'COMMIT');

#
# A fleet of both adds to a counter: each client reads, and then writes
#

my $add = "BEGIN;\nSELECT value AS value FROM counter \\gset\nUPDATE counter SET value = :value + 1;\nCOMMIT;\n";

# How many additions are lost in one batch, if the library's id is that of `key`.
sub additions_lost
{
	my ($key) = @_;
	my $library_id = library_id($key);
	my @scripts = (
		"SELECT pg_catalog.pg_advisory_lock($library_id);\n${add}SELECT pg_catalog.pg_advisory_unlock($library_id);\n",
		"CALL pglock.lock('counter');\n${add}SELECT pglock.release('counter');\n");
	my @running;

	$node->safe_psql('postgres', 'DROP TABLE IF EXISTS counter; CREATE TABLE counter AS SELECT 0 AS value');
	foreach my $script (@scripts)
	{
		my $file = PostgreSQL::Test::Utils::tempdir() . '/script.sql';

		append_to_file($file, $script);
		# to a file: nobody reads a pipe while the other kind runs
		push @running, IPC::Run::start(
			[ 'pgbench', '-n', '-c', CLIENTS, '-t', TRANSACTIONS, '-f', $file, '-h', $node->host, '-p', $node->port, 'postgres' ],
			'<', \undef, '>&', "$file.out");
	}
	is_deeply([ map { $_->finish } @running ], [ 1, 1 ], "both kinds of clients end well");
	return @scripts * CLIENTS * TRANSACTIONS - $node->safe_psql('postgres', 'SELECT value FROM counter');
}

my $lost = 0;

foreach (1 .. MOST_BATCHES)
{
	$lost = additions_lost('another counter');
	last if $lost > 0;
}
cmp_ok($lost, '>', 0, 'control: with different locks additions are lost');
is(additions_lost('counter'), 0, 'a mixed fleet loses none');

$_->quit foreach $old, $new;
stop_and_check_log($node);
done_testing();
