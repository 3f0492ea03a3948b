# What sessions publish of their locks: however many they hold and however their names are, others see
# all of it; it goes with the locks and the sessions; and a session that gets no memory for it does
# its work all the same.

use strict;
use warnings;
use utf8;
use Encode qw(encode_utf8);
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

use constant CONNECTIONS => 12;

# segments of shared memory are files here, so that they can be counted, and denied
my $node = new_server('registry', conf => <<"END");
shared_preload_libraries = postgres_lock
dynamic_shared_memory_type = mmap
restart_after_crash = on
max_connections = @{[ CONNECTIONS ]}
max_locks_per_transaction = 1000
wal_level = replica
max_wal_senders = 2
END
my $segments = $node->data_dir . '/pg_dynshmem';

sub segment_count { return scalar(() = glob "$segments/mmap.*"); }

sub size { return $node->safe_psql('postgres', 'SELECT pglock.registry_size()'); }

# What another session sees.
sub seen
{
	my ($columns, $condition) = @_;

	return $node->safe_psql('postgres', "SELECT $columns FROM pglock.locks" . ($condition ? " WHERE $condition" : ''));
}

sub pid_of
{
	my ($session) = @_;

	return $session->query_safe('SELECT pg_backend_pid()');
}

# Takes locks by names with numbers, and says how many are held.
sub take
{
	my ($session, $name, $count) = @_;

	return $session->query("SELECT count(*) FILTER (WHERE pglock.acquire('$name' || i)) FROM generate_series(1, $count) i");
}

my $books = "SELECT count(*) FROM pg_backend_memory_contexts WHERE name = 'pglock'";

is($node->safe_psql('postgres', "BEGIN; SAVEPOINT s; ROLLBACK TO s; COMMIT; $books"), '0',
	'a session that takes no lock has no memory for its books');
is($node->safe_psql('postgres', "SELECT pglock.acquire('k'); $books"), "t\n1", '... one that does has some');

my $empty = size();
my $no_segments = segment_count();

# Many holds of several sessions
my @sessions = map { session($node) } 1 .. 3;
my @counts = (5000, 100, 1000);

is(take($sessions[0], 'k', 8), '8', 'a few locks');
is(size(), $empty, '... need no more memory than there is');
is(take($sessions[$_], "many$_.", $counts[$_]), $counts[$_], "a session takes $counts[$_] locks") foreach 0 .. 2;

my $full = size();

cmp_ok($full, '>', $empty + 6100 * 255, '... for which there is memory');
cmp_ok(segment_count(), '>', $no_segments + 3, '... of their own');
foreach my $i (0 .. 2)
{
	my $pid = pid_of($sessions[$i]);

	is( seen("count(*), count(DISTINCT key), bool_and(key = 'many$i.' || substr(key, 7)),
			bool_and(pglock.lock_id(key) = lock_id AND scope = 'session' AND depth = 1 AND held_since < now())",
			"pid = $pid AND key LIKE 'many%'"),
		"$counts[$i]|$counts[$i]|t|t", '... and all are seen by others');
}
is(seen('count(*), count(key)'), '6108|6108', '... and no more');

# ... and back
is($sessions[0]->query("SELECT count(*) FILTER (WHERE pglock.release('many0.' || i)) FROM generate_series(1, 4000) i"),
	'4000', 'most are given back');
is(seen('count(*), count(key)', "key LIKE 'many0.%'"), '1000|1000', '... the others are seen');
is($sessions[0]->query('SELECT pglock.release_all()'), '1008', 'all are given back');
is($sessions[2]->query('SELECT pg_advisory_unlock_all()'), '', '... by another one behind the back of the extension');
is(seen('count(*), count(key)'), '100|100', '... and no longer seen');
cmp_ok(size(), '<', $empty + 3 * 500 * 255, '... the memory is given back');
cmp_ok(segment_count(), '<', $no_segments + 6, '... to the operating system');
is(take($sessions[2], 'again', 300), '300', 'the session takes locks again');
is(seen('count(*), count(DISTINCT key)', "key LIKE 'again%'"), '300|300', '... which are seen');

my @pids = map { pid_of($_) } @sessions;

$_->quit foreach @sessions;
wait_for_session_end($node, $_) foreach @pids;
is(size(), $empty, 'sessions that end give all of the memory back');
is(segment_count(), $no_segments, '... also to the operating system');
is(seen('count(*)'), '0', '... and nothing is seen of them');

# Names. Who waits has a name, too.
my $session = session($node);
my $waiter = session($node);
my $e = encode_utf8('é');       # 2 bytes
my $sun = encode_utf8('日');    # 3
my $key = encode_utf8('🔑');     # 4

foreach my $case (
	[ 'no name', "''", '' ],
	[ 'a name with all kinds of characters', "E' \\n\\t\"{}'", " \n\t\"{}" ],
	[ '255 bytes', "repeat('x', 255)", 'x' x 255 ],
	[ '256 bytes', "repeat('x', 256)", 'x' x 255 . '...' ],
	[ '10,000 bytes', "repeat('x', 10000)", 'x' x 255 . '...' ],
	[ '255 bytes of 2-byte characters', "repeat('$e', 127) || 'x'", $e x 127 . 'x' ],
	[ '256 bytes of 2-byte characters', "repeat('$e', 128)", $e x 127 . '...' ],
	[ '255 bytes of 3-byte characters', "repeat('$sun', 85)", $sun x 85 ],
	[ '258 bytes of 3-byte characters', "repeat('$sun', 86)", $sun x 85 . '...' ],
	[ '256 bytes of 4-byte characters', "repeat('$key', 64)", $key x 63 . '...' ],
	[ '257 bytes, the last character across the end', "repeat('x', 254) || '$sun'", 'x' x 254 . '...' ])
{
	my ($what, $name, $shown) = @$case;

	is($session->query("SELECT pglock.acquire($name)"), 't', "$what: is held");
	start_waiting($waiter, "SELECT pglock.acquire($name)");
	wait_for_waiter($node);
	is(seen("key, lock_id = pglock.lock_id($name)", 'granted'), "$shown|t", '... is seen');
	is(seen("key, lock_id = pglock.lock_id($name)", 'NOT granted'), "$shown|t", '... at its waiter, too');
	is($session->query("SELECT pglock.release($name)"), 't', '... is released');
	is(finish_waiting($waiter), '00000', '... and gets to the waiter');
	$waiter->query_safe('SELECT pglock.release_all()');
}
is(seen('count(*)'), '0', 'no name is left');

# Other databases have other locks.
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION postgres_lock');
is(take($session, 'k', 20), '20', 'a session holds locks');
is( $node->safe_psql('other', "SELECT (SELECT count(*) FROM pglock.locks), pglock.try('k1'),
		(SELECT string_agg(key, ',') FROM pglock.locks)"),
	'0|t|k1', 'a session of another database sees its own only');
is(seen("count(*), count(*) FILTER (WHERE key ~ '^k[0-9]+\$')"), '20|20', '... while those of its own see it');

# Sessions that are ended, and those that get their slots
my @ended = ($session, $waiter, session($node));

take($_, 'ended', 1) foreach $ended[2];
take($waiter, 'waiter', 100);
take($ended[2], 'third', 9);
@pids = map { pid_of($_) } @ended;
is(seen('count(*), count(key)'), '130|130', 'sessions hold locks');
$ended[0]->quit;
is($node->safe_psql('postgres', "SELECT pg_terminate_backend($pids[1])"), 't', 'one is ended by another');
$ended[2]{run}->signal('KILL');
end_session(@ended[ 1, 2 ]);
wait_for_session_end($node, $_) foreach @pids;
is(seen('count(*)'), '0', 'nothing is seen of those who are gone');
is(size(), $empty, '... no memory is theirs');
is(segment_count(), $no_segments, '... nor a segment');

# one connection is left, for those who look
my @new = map { session($node) } 1 .. CONNECTIONS - 1;
my @keys = ((map { "k$_" } 1 .. 20), (map { "waiter$_" } 1 .. 100), (map { "third$_" } 1 .. 9));
my $ids = join ',', map { "pglock.lock_id('$_')" } @keys;

$_->query_safe("SELECT pg_advisory_lock_shared(id) FROM unnest(ARRAY[$ids]) id") foreach @new;
is( seen('count(*), count(key), count(scope), count(depth), count(held_since)'),
	@new * @keys . '|0|0|0|0', 'sessions in their slots show nothing of what was held there');
take($new[$_], "new$_.", 1) foreach 0 .. $#new;
is(seen("string_agg(key, ',' ORDER BY length(key), key)"),
	join(',', map { "new$_.1" } 0 .. $#new), '... nor when they hold locks themselves');
take($new[$_], "new$_.", 10) foreach 0 .. $#new;
is( seen('count(*), count(key), count(DISTINCT key)', "scope = 'session'"),
	join('|', (10 * @new) x 3), '... nor when they hold more');
@pids = map { pid_of($_) } @new;
$_->quit foreach @new;
wait_for_session_end($node, $_) foreach @pids;

# A crash: the server begins anew.
$session = session($node);
take($session, 'crashed', 100);

my $crashed = pid_of($session);

kill 'KILL', $crashed;
$node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $crashed)")
  or die 'the server does not come back';
end_session($session);
is(seen('count(*)'), '0', 'after a crash nothing is seen');
is(size(), $empty, '... no memory is used');
is(segment_count(), $no_segments, '... nor a segment left');
$session = session($node);
is(take($session, 'k', 100), '100', '... and sessions take locks');
is(seen('count(*), count(DISTINCT key)'), '100|100', '... which are seen');
$session->quit;

# The extended protocol: what a statement did is seen while its transaction goes on. pgbench waits for
# the gate in the statement after it.
my $gate = session($node);
my $file = PostgreSQL::Test::Utils::tempdir() . '/extended.sql';
my $three = "SELECT pglock.acquire('x'), pglock.acquire('x'), pglock.acquire('x');\n";
my $unlock = 'SELECT pg_advisory_unlock(:id)';
my $wait = 'SELECT pg_advisory_lock(:gate)';

foreach my $case (
	[ 'in a transaction block', "BEGIN;\n$unlock;\n$wait;\nCOMMIT;\n" ],
	[ 'after a savepoint', "BEGIN;\nSAVEPOINT s;\n$unlock;\n$wait;\nCOMMIT;\n" ],
	[ 'in a pipeline', "\\startpipeline\n$unlock;\n$wait;\n\\endpipeline\n" ],
	[ 'in a pipeline, not first', "\\startpipeline\nSELECT 1;\n$unlock;\n$wait;\n\\endpipeline\n" ])
{
	my ($where, $script) = @$case;

	foreach my $mode ('extended', 'prepared')
	{
		my ($id, $gate_id) = split /\|/, $gate->query_safe("SELECT pglock.lock_id('x'), pglock.lock_id('gate')");
		my $output = '';

		unlink $file;
		append_to_file($file, $three . $script);
		is($gate->query("SELECT pglock.acquire('gate')"), 't', "$mode protocol, $where: the gate is closed");

		my $run = IPC::Run::start(
			[ 'pgbench', '-n', '-t', 1, '-M', $mode, '-D', "id=$id", '-D', "gate=$gate_id", '-f', $file,
				'-h', $node->host, '-p', $node->port, 'postgres' ],
			'<', \undef, '>&', \$output);

		wait_for_waiter($node, 'gate');
		is(seen('depth, scope', "key = 'x'"), '2|session', '... of three levels one was unlocked');
		is($gate->query("SELECT pglock.release('gate')"), 't', '... the gate is opened');
		ok($run->finish, '... and the client ends') or diag($output);
	}
}
$gate->quit;

# What a session took by the built-in functions beside a lock of ours, at the other scope, has a row of its own
my $scopes = "string_agg(concat(key, ' ', mode, ' ', scope, depth), ', ' ORDER BY mode, scope)";
my $mixing = session($node);

foreach my $case (
	[ "SELECT pglock.acquire('x', scope => 'transaction')", 'x exclusive transaction1' ],
	[ "SELECT pg_advisory_lock(pglock.lock_id('x'))", 'x exclusive transaction1, x exclusive ' ],
	[ "SELECT pg_advisory_lock_shared(pglock.lock_id('x'))", 'x exclusive transaction1, x exclusive , x shared ' ],
	[ "SELECT pg_advisory_unlock(pglock.lock_id('x'))", 'x exclusive transaction1, x shared ' ],
	[ "SELECT pg_advisory_lock(pglock.lock_id('x')), pglock.acquire('x')", 'x exclusive session2, x exclusive transaction1, x shared ' ],
	[ "COMMIT", 'x exclusive session2, x shared ' ],
	[ "SELECT pg_advisory_unlock_all()", '' ],
	[ "BEGIN; SELECT pg_advisory_xact_lock(pglock.lock_id('y')), pglock.acquire('y')", 'y exclusive session1, y exclusive ' ],
	[ "SELECT pglock.release('y')", 'y exclusive ' ],
	[ "SELECT pglock.acquire('y')", 'y exclusive session1, y exclusive ' ],
	[ "COMMIT", 'y exclusive session1' ],
	[ "SELECT pglock.release('y')", '' ])
{
	my ($sql, $expected) = @$case;

	$mixing->query_safe('BEGIN') if $sql =~ /^SELECT pglock.acquire\('x', scope/;
	$mixing->query_safe($sql);
	is(seen($scopes), $expected, "both kinds: $sql");
}
end_session($mixing);

# Without memory
SKIP:
{
	skip 'root may write anywhere', 1 if $> == 0;

	my $log_start = -s $node->logfile;
	my $setting = $node->pg_version >= 16 ? 'debug_parallel_query' : 'force_parallel_mode';
	my $parallel = "SET $setting = on; SELECT count(*) FROM pg_class; RESET $setting";
	my $victim = session($node);

	chmod 0500, $segments or die $!;
	is(take($victim, 'k', 100), '100', 'without memory: all locks are held');
	is( $victim->query('SELECT count(*), count(key), count(DISTINCT key), sum(depth), count(held_since) FROM pglock.locks'),
		'100|100|100|100|100', '... the session sees all of them');
	is($victim->query('SELECT count(*), count(key) FROM pglock.session_holds()'), '100|100', '... also in its books');
	is(seen('count(*), count(key), count(scope), count(depth), count(held_since)'), '100|8|8|8|8', '... others some');
	is(size(), $empty, '... in the memory that there is');
	is( $node->safe_psql('postgres', "SELECT count(*) FILTER (WHERE pglock.try('k' || i)) FROM generate_series(1, 100) i"),
		'0', '... others are excluded from all');
	like(
		slurp_file($node->logfile, $log_start),
		qr/LOG:  postgres_lock cannot publish all of its locks: could not open shared memory segment .*: Permission denied/,
		'... and the log says why');

	# in transactions, savepoints, and when all is given back and taken again
	is($victim->query('SELECT pglock.release_all()'), '100', 'all are released');
	is(seen('count(*)'), '0', '... and none is held');
	$victim->query_safe('CREATE TABLE work (value integer)');
	is(take($victim, 'k', 8), '8', 'a few locks');
	$victim->query_safe("BEGIN; INSERT INTO work VALUES (1); SAVEPOINT s; INSERT INTO work VALUES (2)");
	is( $victim->query("SELECT count(*) FILTER (WHERE pglock.acquire('tx' || i, scope => 'transaction')) FROM generate_series(1, 300) i"),
		'300', '... and many in a savepoint');
	$victim->query_safe('ROLLBACK TO SAVEPOINT s; INSERT INTO work VALUES (3); COMMIT');
	is($victim->query("SELECT string_agg(value::text, ',' ORDER BY value) FROM work"), '1,3', '... whose transaction goes on');
	is($victim->query('SELECT count(*), count(key) FROM pglock.locks'), '8|8', '... and leaves the few');

	# books that are opened for what the built-in functions took, while all else has gone
	$victim->query_safe('SELECT pglock.acquire(\'k9\')');
	is( $victim->query("SELECT pg_advisory_unlock_all(), pg_advisory_lock(pglock.lock_id('z')), pglock.token('z') > 0"),
		'||t', 'a token is drawn');
	is($victim->query('SELECT key, token > 0 FROM pglock.locks'), 'z|t', '... and known');
	$victim->query_safe('SELECT pg_advisory_unlock_all()');
	$victim->quit;
	$victim = session($node);
	is(take($victim, 'k', 8), '8', 'another session holds a few locks');
	is( $victim->query("SELECT pg_advisory_unlock_all(), pg_advisory_lock(pglock.lock_id('z')), pglock.token('z') > 0"),
		'||t', '... and draws a token for another one, without memory');
	is(take($victim, 'k', 100), '100', '... and takes many locks');
	$victim->query_safe('SELECT pg_advisory_unlock_all()');

	# every cancel is heard, also one that comes while memory is asked for
	my $rounds = 200;
	my $output = '';

	unlink $file;
	append_to_file($file, "\\set VERBOSITY sqlstate\nSET statement_timeout = 3;\n" . <<'END' x $rounds);
DO $$ BEGIN LOOP
	PERFORM pglock.acquire_all(array(SELECT 'c' || i FROM generate_series(1, 73) i));
	PERFORM pglock.release_all();
END LOOP; END $$;
\echo state :SQLSTATE
END
	IPC::Run::run([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-f', $file ], '<', \undef, '>', \$output, '2>', '/dev/null');
	is(() = $output =~ /^state 57014$/mg, $rounds, 'cancels are heard');
	is(seen('count(*)'), '0', '... and nothing stays held');

	# memory again: for this session, for parallel queries, and for others
	is(take($victim, 'k', 100), '100', 'the session holds many locks again');
	chmod 0700, $segments or die $!;
	is($victim->query($parallel), $node->safe_psql('postgres', $parallel), 'with memory: its parallel queries run');
	is(take($victim, 'more', 300), '300', '... it takes more');
	cmp_ok(seen('count(key)', "key LIKE 'more%'"), '>', 0, '... of which others see more');

	# what was taken without memory is published with the next lock, but that is not tried all the time
	my $hidden = 1;

	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		$victim->query_safe("SELECT pglock.acquire('next'), pglock.release('next')");
		$hidden = seen('count(*) FILTER (WHERE key IS NULL)', 'pid = ' . pid_of($victim));
		last if $hidden == 0;
		select undef, undef, undef, 0.1;
	}
	is($hidden, 0, '... and at last all of them');
	is( seen('count(*), count(DISTINCT key), sum(depth), count(held_since)', 'pid = ' . pid_of($victim)),
		'400|400|400|400', '... with all there is to know');
	is($victim->query('SELECT count(*), count(DISTINCT key), sum(depth) FROM pglock.locks WHERE pid = pg_backend_pid()'),
		'400|400|400', '... which is what it sees itself');
	$session = session($node);
	is(take($session, 's', 100), '100', '... another session takes locks');
	is(seen('count(*), count(key)', 'pid = ' . pid_of($session)), '100|100', '... of which others see all');
	is($victim->query('SELECT pglock.release_all()'), '400', 'the first one gives all back');
	@pids = map { pid_of($_) } $victim, $session;
	$_->quit foreach $victim, $session;
	wait_for_session_end($node, $_) foreach @pids;
	is(size(), $empty, 'no memory is left in use');
	is(segment_count(), $no_segments, '... and no segment');
	unlike(slurp_file($node->logfile, $log_start), qr/WARNING|leak/i, 'nothing was left to the server to clean up');
}

# Sessions that end in another way: those that may replicate, too, and those without a postmaster
is( $node->safe_psql('postgres', "SELECT count(*) FILTER (WHERE pglock.acquire('k' || i)) FROM generate_series(1, 20) i",
		replication => 'database'),
	'20', 'a replication connection takes locks');
ok( $node->poll_query_until('postgres', "SELECT count(*) = 0 AND pglock.registry_size() = $empty FROM pglock.locks"),
	'... and gives them back');
$node->stop;

my ($output, $errors) = ('', '');
my $sql = <<'END';
SELECT count(*) FILTER (WHERE pglock.acquire('k' || i)) AS taken FROM generate_series(1, 20) i
SELECT count(pglock.acquire_slot('k1', 20)) AS slots FROM generate_series(1, 20) i
SELECT count(key) AS shown FROM pglock.locks
END

ok( IPC::Run::run([ 'postgres', '--single', '-D', $node->data_dir, 'postgres' ], '<', \$sql, '>', \$output, '2>', \$errors),
	'in single-user mode the server comes to its end')
  or diag($errors);
like($output, qr/taken = "20".*slots = "20".*shown = "40"/s, '... and its session takes locks and slots, and sees them');
$node->start;

stop_and_check_log($node, killed => [$crashed]);
done_testing();
