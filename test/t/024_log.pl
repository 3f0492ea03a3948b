# The server's log speaks of locks by their names.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('log', conf => "log_lock_waits = on\ndeadlock_timeout = 10ms\n");
my $holder = session($node);
my $waiter = session($node);

# What was logged from `offset` on, when it matches.
sub wait_for_log
{
	my ($pattern, $offset) = @_;

	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my $log = substr slurp_file($node->logfile), $offset;

		return $log if $log =~ $pattern;
		select undef, undef, undef, 0.1;
	}
	die "not logged: $pattern";
}

my $pid = $waiter->query('SELECT pg_backend_pid()');
my $long = 'x' x 2000;

foreach my $case (
	[ "SELECT pglock.acquire('job 7')", 'job 7', qr/"job 7"/ ],
	[ "SELECT pglock.acquire('job 7', '1h')", 'job 7', qr/"job 7"/ ],
	[ "SELECT pglock.acquire('job 7', shared => true)", 'job 7', qr/"job 7"/ ],
	[ "SELECT pglock.acquire_all('{free,job 7}')", 'job 7', qr/"job 7"/ ],
	[ "CALL pglock.lock('job 7')", 'job 7', qr/"job 7"/ ],
	[ "SELECT pglock.acquire('ключ')", 'ключ', qr/"ключ"/ ],
	[ "SELECT pglock.acquire('')", '', qr/""/ ],
	[ "SELECT pglock.acquire('a\"b%s')", 'a"b%s', qr/"a"b%s"/ ],
	[ "SELECT pglock.acquire('$long')", $long, qr/"x+\.\.\."/ ],
	[ "SELECT pglock.acquire(5::bigint)", '5', qr/"5"/ ])
{
	my ($call, $key, $name) = @$case;
	my $offset = -s $node->logfile;

	is($holder->query("SELECT pglock.acquire('$key')"), 't', 'a session holds the lock');
	start_waiting($waiter, $call);

	my $line = qr/process $pid still waiting for \w+ on advisory lock/;
	# since PostgreSQL 19 the server itself says in a line before ours what is waited for
	my $context = qr/CONTEXT:  (?:waiting for .*\n\t)?while acquiring lock/;
	my $log = wait_for_log(qr/$line.*$context/s, $offset);

	like($log, qr/LOG:  $line.*\n(?:.*\n)*?.*$context $name\n/,
		substr($call, 0, 60) . ': the wait is logged by name');
	is($holder->query('SELECT pglock.release_all()'), '1', 'the holder releases');
	is(finish_waiting($waiter), '00000', 'the waiter gets the lock');
	$log = wait_for_log(qr/process $pid acquired \w+ on advisory lock.*CONTEXT/s, $offset);
	like($log, qr/process $pid acquired.*\n(?:.*\n)*?.*$context $name\n/,
		'... and so is its end');
	$waiter->query('SELECT pglock.release_all()');
}

# A deadlock, for the client and for the log.
my $offset = -s $node->logfile;

is($holder->query("SELECT pglock.acquire('one')"), 't', 'one session holds one lock');
is($waiter->query("SELECT pglock.acquire('two')"), 't', '... the other another');
# whoever begins to wait last finds the deadlock, or whoever looks first: either may fail
start_waiting($holder, "SELECT pglock.acquire('two')");
wait_for_waiter($node, 'two');
start_waiting($waiter, "SELECT pglock.acquire('one')");

my $log = wait_for_log(qr/ERROR:  deadlock detected.*CONTEXT:  while acquiring lock/s, $offset);

like($log, qr/ERROR:  deadlock detected\n.*DETAIL:  Process \d+ waits for ExclusiveLock on advisory lock/,
	'the deadlock is logged');
like($log, qr/ERROR:  deadlock detected\n(?:.*\n)*?.*CONTEXT:  while acquiring lock "(?:one|two)"\n/,
	'... by name');

# who failed still holds the lock it had: the other waits for it
my ($in_vain) = $log =~ /ERROR:  deadlock detected\n(?:.*\n)*?.*CONTEXT:  while acquiring lock "(\w+)"/;
my ($loser, $winner) = $in_vain eq 'one' ? ($waiter, $holder) : ($holder, $waiter);

is(finish_waiting($loser), '40P01', 'the error reaches the client');
like($loser->{stderr}, qr/ERROR:  deadlock detected.*CONTEXT:  while acquiring lock "(?:one|two)"/s, '... by name');
is($loser->query('SELECT pglock.release_all()'), '1', '... who keeps the lock it had, and releases it');
is(finish_waiting($winner), '00000', 'the other gets its lock');

end_session($holder, $waiter);
stop_and_check_log($node);
done_testing();
