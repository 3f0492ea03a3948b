# Who sees what of the locks of others: names, and what else sessions publish, are for those who may see
# these sessions in pg_stat_activity; that a lock is held or waited for, and by whom, is for all.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('visibility', conf => <<'END');
shared_preload_libraries = postgres_lock
max_prepared_transactions = 5
listen_addresses = '127.0.0.1'
END
my $hidden = '<insufficient privilege>';

$node->safe_psql('postgres', <<'END');
CREATE ROLE team;
CREATE ROLE alice LOGIN IN ROLE team;
CREATE ROLE bob LOGIN;
CREATE ROLE teammate LOGIN IN ROLE team;
CREATE ROLE manager LOGIN IN ROLE alice;
CREATE ROLE deputy LOGIN NOINHERIT IN ROLE alice;
CREATE ROLE monitor LOGIN IN ROLE pg_read_all_stats;
CREATE ROLE w1 LOGIN; CREATE ROLE w2 LOGIN; CREATE ROLE w3 LOGIN; CREATE ROLE w4 LOGIN;
END

# client_addr needs TCP, which is for one who may not do much
unlink $node->data_dir . '/pg_hba.conf';
$node->append_conf('pg_hba.conf', "local all all trust\nhost postgres alice 127.0.0.1/32 trust\n");
$node->reload;

sub session_of
{
	my ($role, $name) = @_;
	my $session = session($node, extra_params => [ '-U', $role ]);

	$session->query_safe("SET application_name = '$name'");
	return $session;
}

# What a role sees, in a session of its own
sub seen_by
{
	my ($role, $sql) = @_;

	return $node->safe_psql('postgres', $sql, extra_params => [ '-U', $role ]);
}

my $rows = "SELECT application_name, key, mode, scope, granted, depth, held_since IS NOT NULL, token IS NOT NULL,
		waiting_since <= clock_timestamp(), blocked_by IS NOT NULL, client_addr, holder
	FROM pglock.locks ORDER BY application_name, mode, scope";

# alice, by TCP, holds a lock; bob waits for it
my $alice = do { local $ENV{PGHOSTADDR} = '127.0.0.1'; session_of('alice', 'holder') };
my $bob = session_of('bob', 'waiter');

$alice->query_safe("SET pglock.holder = 'for A'");
$bob->query_safe("SET pglock.holder = 'for B'");
$alice->query_safe("SELECT pglock.acquire('secret'), pglock.acquire('secret', shared => true), pglock.token('secret')");
start_waiting($bob, "SELECT pglock.acquire('secret', shared => true)");
wait_for_waiter($node, 'secret');
$node->poll_query_until('postgres', "SELECT count(waitstart) = 1 FROM pg_locks WHERE NOT granted") or die;

my %holder = (
	shown => "holder|secret|exclusive|session|t|1|t|t||f|127.0.0.1|for A\nholder|secret|shared|session|t|1|t|f||f|127.0.0.1|for A",
	hidden => "holder|$hidden|exclusive||t||f|f||f||\nholder|$hidden|shared||t||f|f||f||");
my %waiter = (
	shown => 'waiter|secret|shared|session|f||f|f|t|t||for B',
	hidden => "waiter|$hidden|shared||f||f|f|t|t||");

foreach my $case (
	# role, and what it sees of alice's and of bob's session
	[ 'postgres', 'shown', 'shown' ],
	[ 'monitor', 'shown', 'shown' ],
	[ 'alice', 'shown', 'hidden' ],
	[ 'manager', 'shown', 'hidden' ],
	[ 'bob', 'hidden', 'shown' ],
	[ 'deputy', 'hidden', 'hidden' ],
	[ 'teammate', 'hidden', 'hidden' ],
	[ 'w1', 'hidden', 'hidden' ])
{
	my ($role, $of_alice, $of_bob) = @$case;

	is(seen_by($role, $rows), "$holder{$of_alice}\n$waiter{$of_bob}", "$role: alice's are $of_alice, bob's are $of_bob");
	is(seen_by($role, "SELECT count(*) FILTER (WHERE (locks.key = '$hidden') <> (activity.query = '$hidden')),
				count(*) FILTER (WHERE locks.usename IS DISTINCT FROM activity.usename
					OR locks.application_name IS DISTINCT FROM activity.application_name
					OR locks.client_addr IS DISTINCT FROM activity.client_addr)
			FROM pglock.locks LEFT JOIN pg_stat_activity activity USING (pid)"),
		'0|0', '... as in pg_stat_activity');
	is( seen_by($role, "SELECT pid, mode, granted, waiting_since, lock_id >> 32, lock_id & 4294967295 FROM pglock.locks
			EXCEPT SELECT pid, CASE mode WHEN 'ExclusiveLock' THEN 'exclusive' ELSE 'shared' END, granted, waitstart,
				classid::bigint, objid::bigint FROM pg_locks WHERE locktype = 'advisory'"),
		'', '... what pg_locks shows is there for all');
	is( seen_by($role, 'SELECT count(*) FROM pglock.locks WHERE NOT granted AND blocked_by = pg_blocking_pids(pid)'),
		'1', '... and for whom bob waits');
}

# Roles that a session takes on
is($node->safe_psql('postgres', "SET ROLE bob; $rows"), "$holder{hidden}\n$waiter{shown}", 'a superuser as bob sees what bob sees');
is($node->safe_psql('postgres', "SET SESSION AUTHORIZATION alice; $rows"),
	"$holder{shown}\n$waiter{hidden}", '... and as alice what alice sees');
is(seen_by('deputy', "SET ROLE alice; $rows"), "$holder{shown}\n$waiter{hidden}", 'a deputy sees what alice sees as alice only');
is(seen_by('manager', "SET ROLE team; $rows"), "$holder{hidden}\n$waiter{hidden}", 'a manager sees less as another');
$alice->query_safe('SET ROLE team');
is($alice->query("SELECT key, depth, token IS NOT NULL FROM pglock.locks WHERE pid = pg_backend_pid() ORDER BY mode"),
	"secret|1|t\nsecret|1|f", 'a session sees its own whatever its role');
is(seen_by('teammate', $rows), "$holder{hidden}\n$waiter{hidden}", '... and is still the one of who logged in');
is(seen_by('alice', $rows), "$holder{shown}\n$waiter{hidden}", '... to all');
$alice->query_safe('RESET ROLE');

my $super = session_of('postgres', 'super');

$super->query_safe("SELECT pglock.acquire('of a superuser'); SET SESSION AUTHORIZATION bob");
is( $super->query("SELECT key, depth FROM pglock.locks WHERE application_name = 'super'"),
	'of a superuser|1', 'so does the session of a superuser as bob');
is(seen_by('bob', "SELECT key, usename FROM pglock.locks WHERE application_name = 'super'"),
	"$hidden|postgres", '... which bob does not see');
$super->quit;

# No name is learned by taking the same id.
is($alice->query('SELECT pglock.release_all()'), '2', 'alice gives the lock back');
is(finish_waiting($bob), '00000', '... to bob');
$bob->query_safe('SELECT pglock.release_all()');
$alice->query_safe("SELECT pglock.acquire('secret', shared => true), pglock.acquire('prepared', shared => true)");

my $name = 'SELECT key, granted FROM pglock.locks WHERE pid = pg_backend_pid()';
my $names = "SELECT key FROM pglock.locks WHERE lock_id = pglock.lock_id('secret') ORDER BY application_name";

foreach my $call (
	"pg_advisory_lock_shared(pglock.lock_id('secret'))",
	"pglock.acquire_raw(pglock.lock_id('secret'), shared => true)")
{
	$bob->query_safe("SELECT $call");
	is($bob->query($name), '|t', "$call: bob knows no name");
	is($bob->query($names), "$hidden\n", '... nor sees the one of alice');
	is(seen_by('bob', $names), "$hidden\n", '... in no session');
	is(seen_by('alice', $names), "secret\n$hidden", 'alice sees her own name, not if bob has one');
	is(seen_by('monitor', $names), "secret\nsecret", '... a monitor sees that it is the same');
	$bob->query_safe('SELECT pg_advisory_unlock_all()');
}
start_waiting($bob, "SELECT pglock.acquire_raw(pglock.lock_id('secret'))");
wait_for_waiter($node, 'secret');
is(seen_by('bob', $names), "$hidden\n", 'nor by waiting for it');
$alice->query_safe("SELECT pglock.release('secret')");
finish_waiting($bob);
$bob->query_safe('SELECT pg_advisory_unlock_all()');
$alice->query_safe("SELECT pglock.acquire('secret', shared => true)");
$bob->query_safe("SELECT pglock.acquire('secret', shared => true)");
is(seen_by('bob', $names), "$hidden\nsecret", 'who has the name sees it as his, not that alice has it');
$bob->query_safe('SELECT pglock.release_all()');

# Slots. Since when who is in front waits is not known to the lock manager.
$bob->query_safe("SELECT pglock.release_all()");
$alice->query_safe("SELECT pglock.acquire_slot('slots', 2), pglock.acquire_slot('slots', 2)");
start_waiting($bob, "SELECT pglock.acquire_slot('slots', 2)");
wait_for_waiter($node, 'slots');

my $slots = "SELECT slot, key, scope, granted, depth, held_since IS NOT NULL, waiting_since IS NOT NULL, cardinality(blocked_by)
	FROM pglock.locks WHERE slot IS NOT NULL ORDER BY slot";
my %in_front = (shown => '0|slots|session|f||f|t|1', hidden => "0|$hidden||f||f|f|1");
my %slots = (
	shown => "1|slots|session|t|1|t|f|\n2|slots|session|t|1|t|f|",
	hidden => "1|$hidden||t||f|f|\n2|$hidden||t||f|f|");

is(seen_by('monitor', $slots), "$in_front{shown}\n$slots{shown}", 'a monitor sees the names of slots, and of who waits for one');
is(seen_by('alice', $slots), "$in_front{hidden}\n$slots{shown}", '... alice those of her own');
is(seen_by('bob', $slots), "$in_front{shown}\n$slots{hidden}", '... bob those of his');
is(seen_by('w1', $slots), "$in_front{hidden}\n$slots{hidden}", '... others see only that there are such');
$alice->query_safe("SELECT pglock.release_slot('slots', i) FROM generate_series(1, 2) AS i");
finish_waiting($bob);
$bob->query_safe('SELECT pglock.release_all()');

# a prepared transaction has no session, and shows the names that one sees elsewhere
$node->safe_psql('postgres', "BEGIN; SELECT pglock.acquire('prepared', shared => true, scope => 'transaction');
	PREPARE TRANSACTION 'p'", extra_params => [ '-U', 'alice' ]);
my $prepared = "SELECT key, lock_id = pglock.lock_id('prepared'), scope, usename FROM pglock.locks WHERE pid IS NULL";

is(seen_by('alice', $prepared), 'prepared|t||', 'a prepared transaction shows its name to alice');
is(seen_by('bob', $prepared), '|t||', '... not to bob');
$bob->query_safe("SELECT pglock.acquire('prepared', shared => true)");
is(seen_by('bob', $prepared), 'prepared|t||', '... unless he knows it');
$bob->query_safe('SELECT pglock.release_all()');
$node->safe_psql('postgres', "COMMIT PREPARED 'p'", extra_params => [ '-U', 'alice' ]);

# Ids that have no name hide nothing but what is published.
$bob->query_safe('SELECT pg_advisory_lock(1, 2), pglock.acquire_raw(42)');
is( seen_by('alice', "SELECT key, lock_id, mode, scope, depth, usename FROM pglock.locks WHERE usename = 'bob' ORDER BY lock_id"),
	"$hidden|42|exclusive|||bob\n||exclusive|||bob", 'locks that have no name');
$bob->query_safe('SELECT pg_advisory_unlock_all()');

# Statistics
sub contention_seen_by
{
	my ($role) = @_;

	return seen_by($role, "SELECT key, lock_id = pglock.lock_id('busy'), waits, timeouts, total_wait_time > 0 FROM pglock.contention");
}

sub wait_in_vain
{
	my ($role) = @_;

	return is(seen_by($role, "SELECT pglock.acquire('busy', '1ms')"), 'f', "$role waits in vain");
}

$alice->query_safe('SELECT pglock.release_all()');
$node->safe_psql('postgres', 'SELECT pglock.contention_reset()');
$bob->query_safe("SELECT pglock.acquire('busy')");
wait_in_vain('alice');
is(contention_seen_by($_), 'busy|t|1|1|t', "... $_ sees who") foreach 'alice', 'manager', 'monitor', 'postgres';
is(contention_seen_by($_), "$hidden|t|1|1|t", "... $_ sees that") foreach 'bob', 'deputy', 'teammate', 'w1';
wait_in_vain('w1');
is(contention_seen_by($_), 'busy|t|2|2|t', "... $_ sees who") foreach 'alice', 'w1', 'manager', 'monitor';
is(contention_seen_by($_), "$hidden|t|2|2|t", "... $_ sees that") foreach 'bob', 'deputy', 'w2';
wait_in_vain($_) foreach 'w2', 'w3', 'w1';
is(contention_seen_by($_), 'busy|t|5|5|t', "... $_, of the last four, sees who") foreach 'alice', 'w1', 'w2', 'w3';
wait_in_vain('w4');
is(contention_seen_by($_), 'busy|t|6|6|t', "... $_, of the last four, sees who") foreach 'w1', 'w2', 'w3', 'w4', 'monitor';
is(contention_seen_by($_), "$hidden|t|6|6|t", "... $_ no longer") foreach 'alice', 'manager';
is($node->safe_psql('postgres', "SET ROLE alice; SELECT key FROM pglock.contention"), $hidden, '... nor a superuser as alice');
is(seen_by($_, 'SELECT DISTINCT c.key = h.key FROM pglock.contention c JOIN pglock.contention_histogram h USING (lock_id)'),
	't', "... $_ sees as much of how long they took") foreach 'alice', 'w1', 'monitor';


# who waits for the id learns no name
$node->safe_psql('postgres', 'SELECT pglock.contention_reset()');
wait_in_vain('alice');
is(seen_by('w1', "SELECT pglock.acquire_raw(pglock.lock_id('busy'), '1ms')"), 'f', 'w1 waits for the number');
is(contention_seen_by('w1'), "$hidden|t|2|2|t", '... and does not see whose name it has');
is(contention_seen_by('alice'), 'busy|t|2|2|t', '... as alice does');
$node->safe_psql('postgres', 'SELECT pglock.contention_reset()');
is(seen_by('w1', "SELECT pglock.acquire_raw(pglock.lock_id('busy'), '1ms')"), 'f', 'w1 is the only one who waits');
wait_in_vain('alice');
is(contention_seen_by('w1'), "$hidden|t|2|2|t", '... before alice: the name that comes with her is hers');

end_session($alice, $bob);
stop_and_check_log($node);
done_testing();
