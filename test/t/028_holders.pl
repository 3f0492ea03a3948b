# Who holds a lock is named to those who could not get it, or wanted to release it, as far as they may know.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('holders', conf => "shared_preload_libraries = 'postgres_lock'\nmax_prepared_transactions = 10");
my $time = qr/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+(?: \w+|[+-]\d\d)/;

$node->safe_psql('postgres', 'CREATE ROLE other LOGIN; CREATE ROLE monitor LOGIN IN ROLE pg_read_all_stats');

# What a statement complains of, of a user of that name.
sub complaints
{
	my ($sql, $user) = @_;
	my $stderr;

	$node->psql('postgres', $sql, stderr => \$stderr, extra_params => [ '-U', $user // (getpwuid $>)[0] ]);
	return $stderr =~ s/^psql:<stdin>:\d+: //mgr;
}

sub holder
{
	my ($name, $acquire) = @_;
	my $session = session($node);

	$session->query("SET application_name = '$name'; $acquire");
	return ($session, $session->query('SELECT pg_backend_pid()'));
}

my ($holder, $pid) = holder('worker 1', "SELECT pglock.acquire('k')");
my $where = 'HINT:  The view pglock.locks shows who holds it and who waits.';
my $call = "CALL pglock.lock('k', '10ms')";

#
# A timeout that passes
#

like(complaints($call), qr/^ERROR:  could not acquire lock "k" in time
DETAIL:  It is held by process $pid \(worker 1, since $time\)\.
\Q$where\E$/, 'a timeout names the holder');
like(complaints("CALL pglock.lock('k', '0')"), qr/^DETAIL:  It is held by process $pid \(worker 1, since/m, '... also of a try');
like(complaints("CALL pglock.lock_raw(pglock.lock_id('k'), '0')"), qr/^DETAIL:  It is held by process $pid \(worker 1, since/m, '... by its id');
like(complaints("BEGIN; CALL pglock.lock('k', '10ms', scope => 'transaction')"),
	qr/^ERROR:  could not acquire lock "k" in time\n/, '... at transaction scope, with nothing to warn of');
like(complaints($call, 'monitor'), qr/^DETAIL:  It is held by process $pid \(worker 1, since $time\)\.$/m, 'a monitor may know all');
like(complaints($call, 'other'), qr/^DETAIL:  It is held by process $pid\.$/m, 'another role its process only, as in pg_locks');

# waiters whose clients the server would not miss
my ($waiter) = holder('waiter', '');
start_waiting($waiter, "SELECT pglock.acquire('k')");
wait_for_waiter($node, 'k');
like(complaints($call), qr/^HINT:  .*The clients of those who wait may be gone.*"client_connection_check_interval"/m,
	'where clients are not looked for, those of waiters may be gone');
like(complaints("SET client_connection_check_interval = '1s'; $call"), qr/^\Q$where\E$/m, '... where they are, they are not');
$holder->query("SELECT pglock.release('k')");
is(finish_waiting($waiter), '00000', 'the waiter gets the lock');
end_session($waiter);

# slots: all who hold one, and whoever waits in front
my $call_slot = "CALL pglock.slot('k', 2, '10ms')";

$holder->query("SELECT pglock.acquire_slot('k', 2), pglock.acquire_slot('k', 2)");
like(complaints($call_slot), qr/^ERROR:  could not acquire a slot of "k" in time
DETAIL:  Slots are held by process $pid \(worker 1, since $time\)\.
\Q$where\E$/, 'a timeout names who holds slots, once');
like(complaints($call_slot, 'other'), qr/^DETAIL:  Slots are held by process $pid\.$/m, '... to another role its process only');
($waiter) = holder('waiter', '');
start_waiting($waiter, "SELECT pglock.acquire_slot('k', 2)");
wait_for_waiter($node, 'k');
like(complaints($call_slot), qr/^HINT:  .*The clients of those who wait may be gone/m, '... that of whoever waits in front may be gone, too');
$holder->query("SELECT pglock.release_slot('k', 1)");
is(finish_waiting($waiter), '00000', 'the waiter gets the slot');
like(complaints($call_slot), qr/^DETAIL:  Slots are held by process \d+ \(.*, since $time\), process \d+ \(.*, since $time\)\.$/m, '... then both are named');
end_session($waiter);
$holder->query('SELECT pglock.release_all()');

# many
my @many = map { [ holder("reader $_", "SELECT pglock.acquire('many', shared => true)") ] } 1 .. 7;

like(complaints("CALL pglock.lock('many', '0')"),
	qr/^DETAIL:  It is held by (process \d+ \(reader \d, since $time\), ){4}process \d+ \(reader \d, since $time\) and 2 more\.$/m,
	'of many some are named');
is(complaints("SELECT pglock.acquire('many', shared => true); CALL pglock.lock('many', '0')") =~ /and (\d) more/ ? $1 : '', '2',
	'... oneself is not among them');
end_session(map { $_->[0] } @many);

$node->safe_psql('postgres', "BEGIN; SELECT pglock.acquire('p', scope => 'transaction'); PREPARE TRANSACTION 'p'");
like(complaints("CALL pglock.lock('p', '0')"), qr/^DETAIL:  It is held by a prepared transaction\.$/m, 'a prepared transaction');
$node->safe_psql('postgres', "ROLLBACK PREPARED 'p'");

# taken by the built-in functions: nobody knows since when
my ($builtin, $builtin_pid) = holder('', "SELECT pg_advisory_lock(pglock.lock_id('b'))");

like(complaints("CALL pglock.lock('b', '0')"), qr/^DETAIL:  It is held by process $builtin_pid\.$/m, 'a holder who has published nothing');
end_session($builtin);

#
# A reader that wants the lock exclusively, and is the only one, is ahead of those who wait for it
#

my ($reader) = holder('reader', "SELECT pglock.acquire('r', shared => true)");
my ($writer) = holder('writer', '');
my ($second) = holder('second reader', "SELECT pglock.acquire('r', shared => true)");

start_waiting($writer, "SELECT pglock.acquire('r')");
wait_for_waiter($node, 'r');
is($reader->query("SELECT pglock.try('r')"), 'f', 'beside another reader it is refused');
$second->query("SELECT pglock.release('r')");
is($reader->query("SELECT pglock.try('r'), pglock.try('r', scope => 'session'), pglock.held('r')"), 't|t|t', 'alone it gets it, on every version');
is($reader->query("SELECT pglock.release('r'), pglock.release('r'), pglock.release('r')"), 't|t|t', '... and gives it back');
is(finish_waiting($writer), '00000', '... to the writer');
end_session($reader, $writer, $second);

#
# A release of what is not held
#

$holder->query("SELECT pglock.acquire('k')");
like(complaints("SELECT pglock.release('k')"), qr/^WARNING:  lock "k" is not held by this session
DETAIL:  It is held by process $pid \(worker 1, since $time\)\.$/, 'a release of what another session holds');
is(complaints("SELECT pglock.release('K')"), '', 'nothing is said of what nobody holds, where nothing was taken');
is(complaints("SELECT pglock.acquire('a'), pglock.release('K')"), 'WARNING:  lock "K" is not held by this session', '... but after something was');
is(complaints("SELECT pglock.acquire('a'), pglock.release('a', shared => true)"), 'WARNING:  lock "a" is not held shared
DETAIL:  This session holds it exclusively.', 'a release in the wrong mode');
is(complaints("SET pglock.warnings = off; SELECT pglock.release('k')"), '', '... not with warnings off');

end_session($holder);
stop_and_check_log($node);
done_testing();
