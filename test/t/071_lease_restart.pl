# Leases live on over restarts, crashes and promotions, each with its whole time from when the server can be
# written to again: neither less, nor from when somebody first looks. That somebody looks much later is what
# the wait for the lease `short` is for.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use constant {
	LONG => 3600,    # seconds
	SHORT => 1.5,
	GRACE => 3,
	TICK => 0.02,    # the start of a process is known to a hundredth of a second
};

# The answer, or the SQLSTATE, of a statement in a session of its own.
sub ask
{
	my ($node, $sql) = @_;
	my ($stdout, $stderr);

	$node->psql('postgres', $sql, stdout => \$stdout, stderr => \$stderr, extra_params => [ '-v', 'VERBOSITY=sqlstate' ]);
	return $stderr =~ /ERROR: +(\w+)/ ? $1 : $stdout;
}

sub acquire
{
	my ($node, $key, $seconds) = @_;
	my $token = ask($node, "SELECT pglock.acquire_lease('$key', make_interval(secs => $seconds), '1min')");

	return $token =~ /^\d{16}$/ ? $token : die "no token of $key: $token";
}

# renew, holds and check, for the lease `long`
sub answers
{
	my ($node, $token) = @_;

	return join ' ', map { ask($node, "SELECT pglock.$_('long', $token)") } 'renew_lease', 'holds_lease', 'check_lease';
}

# The lease has its whole time from when the server could be written to, which was between `before` and `after`:
# not from when another server, run or clock had it begin.
sub is_whole
{
	my ($node, $name, $before, $after, $token) = @_;
	my $start = ask($node, "SELECT extract(epoch FROM expires_at - ttl) FROM pglock.leases WHERE token = $token");

	cmp_ok($start, '>=', $before, "$name: the lease has its whole time");
	cmp_ok($start, '<=', $after + TICK, '... and not more');
	return;
}

# Both leases are held for their whole time, and then `short` is to be had. Returns its token.
sub both_are_whole
{
	my ($node, $name, $before, $after, %tokens) = @_;

	is(ask($node, "SELECT pglock.try_lease('long')"), '', "$name: a lease is held");
	is_whole($node, $name, $before, $after, $tokens{long});

	my $token = acquire($node, 'short', SHORT);

	cmp_ok(time, '>=', $before + SHORT, '... the other one, too');
	cmp_ok($token, '>', $_, '... then there is a greater token') foreach values %tokens;
	is_whole($node, "$name, and somebody looks later", $before, $after, $tokens{long});
	is( ask($node, "SELECT pglock.renew_lease('short', $tokens{short}), pglock.holds_lease('short', $tokens{short}),
			pglock.release_lease('short', $tokens{short})"),
		'f|f|f', '... the old token is worth nothing');
	is(ask($node, "SELECT pglock.check_lease('short', $tokens{short})"), '55000', '... nor for writing');
	is(answers($node, $tokens{long}), 't t ', '... that of the lease that is held is');
	return $token;
}

foreach my $preloaded ('', 'postgres_lock')
{
	my $which = $preloaded ? 'preloaded' : 'not_preloaded';
	# nobody but those who have to flushes the log
	my $conf = "shared_preload_libraries = '$preloaded'\nrestart_after_crash = on\nautovacuum = off\nwal_writer_delay = 10s\n";
	my $node = new_server("primary_$which", conf => $conf, init => { allows_streaming => 1 });

	$node->backup('backup');

	my $standby = PostgreSQL::Test::Cluster->new("standby_$which");

	$standby->init_from_backup($node, 'backup', has_streaming => 1);
	$standby->append_conf('postgresql.conf', 'pglock.lease_grace = 1h');
	$standby->start;

	my %tokens = (long => acquire($node, 'long', LONG), short => acquire($node, 'short', SHORT));
	my $old = session($node);

	#
	# Restarts and crashes
	#

	my ($before, $after) = (time);

	is($old->query("SELECT pglock.holds_lease('long', $tokens{long})"), 't', "$which: a session knows of the run it is in");
	$node->restart;
	$after = time;
	$tokens{short} = both_are_whole($node, "$which, restarted", $before, $after, %tokens);
	end_session($old);

	my $victim = session($node);
	my $killed = $victim->query("SELECT pg_backend_pid()");
	my $survivor = session($node);

	$before = time;
	kill 'KILL', $killed;
	$node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $killed)")
	  or die 'the server does not come back';
	$after = time;
	$tokens{short} = both_are_whole($node, "$which, a backend was killed", $before, $after, %tokens);
	end_session($victim, $survivor);

	# what was renewed is not flushed: whether it is lost does not matter
	is(ask($node, "SELECT pglock.renew_lease('long', $tokens{long}), pglock.renew_lease('short', $tokens{short})"), 't|t', 'renewed');
	$node->stop('immediate');
	$before = time;
	$node->start;
	$after = time;
	$tokens{short} = both_are_whole($node, "$which, stopped immediately", $before, $after, %tokens);

	# ... unless it makes the time longer: by each of the functions
	foreach my $renew ("pglock.renew_lease('longer', %s, '1h')", "(SELECT count(*) > 0 FROM pglock.renew_leases(ARRAY[%s], '1h'))")
	{
		my $token = acquire($node, 'longer', SHORT);

		is(ask($node, 'SELECT ' . sprintf($renew, $token)), 't', "$which: renewed for longer");
		$node->stop('immediate');
		$node->start;
		is(ask($node, "SELECT ttl, pglock.release_lease('longer', $token) FROM pglock.leases WHERE token = $token"),
			'01:00:00|t', '... it lasts for that after an immediate stop');
	}

	# ... or of a standby that is waited for, which is not there
	$node->append_conf('postgresql.conf', "synchronous_standby_names = 'missing'");
	$node->restart;
	is( ask($node, "SET statement_timeout = '1s'; SELECT pglock.renew_lease('long', $tokens{long})"),
		't', "$which, a standby is missing: a lease is renewed");

	my $impatient = session($node);

	$impatient->query("SET statement_timeout = '200ms'");
	is($impatient->query("SELECT pglock.renew_lease('long', $tokens{long}, '2h')"), '', '... but not for longer');
	like($impatient->{stderr}, qr/canceling the renewal of a lease that was not yet replicated/, '... which is an error');
	is($impatient->query("SELECT pglock.renew_lease('long', $tokens{long}, make_interval(secs => @{[ LONG ]}))"), 't', '... for less it is');
	is(ask($node, "SELECT ttl = make_interval(secs => @{[ LONG ]}), expires_at - renewed_at < '2h' FROM pglock.leases WHERE key = 'long'"),
		't|t', '... and it lasts no longer than before');

	# who renews a lease that another is just making last longer waits for the same
	my $patient = session($node);

	start_waiting($patient, "SELECT pglock.renew_lease('long', $tokens{long}, '2h')");
	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'") or die 'nobody waits';
	is($impatient->query("SELECT pglock.renew_lease('long', $tokens{long})"), '', '... nor while another asks for longer');
	like($impatient->{stderr}, qr/canceling the renewal of a lease that was not yet replicated/, '... which may be lost');
	$node->append_conf('postgresql.conf', "synchronous_standby_names = ''");
	$node->reload;
	is(finish_waiting($patient), '00000', '... until it is there');
	$node->append_conf('postgresql.conf', "synchronous_standby_names = 'missing'");
	$node->restart;
	is( ask($node, "SET statement_timeout = '1s'; SELECT pglock.renew_lease('long', $tokens{long})"),
		't', '... then renewing it is as quick as ever');
	is(ask($node, "SELECT ttl FROM pglock.leases WHERE key = 'long'"), '02:00:00', '... for longer');
	is( ask($node, "SET statement_timeout = '1s'; SELECT pglock.renew_lease('long', $tokens{long}, make_interval(secs => @{[ LONG ]}))"),
		't', '... or for less again');
	end_session($impatient, $patient);
	$node->append_conf('postgresql.conf', "synchronous_standby_names = ''");
	$node->restart;

	# in a transaction that is lost it was never taken, nor released
	my $lost = session($node);

	$lost->query("BEGIN; SELECT pglock.acquire_lease('never'); SELECT pglock.release_lease('long', $tokens{long})");
	$node->stop('immediate');
	$node->start;
	end_session($lost);
	is(ask($node, "SELECT string_agg(key, ' ' ORDER BY key) FROM pglock.leases"), 'long short',
		'... what was not committed has not happened');

	#
	# Promotion of a standby that has all there is but the last lease
	#

	$node->wait_for_catchup($standby);
	$standby->append_conf('postgresql.conf', "primary_conninfo = ''");
	$standby->reload;
	$standby->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)')
	  or die 'the standby is not cut off';

	my $reader = session($standby);

	is($reader->query('SELECT pg_is_in_recovery()'), 't', "$which: a session of the standby");

	# the standby does not hear of these
	my $unknown = acquire($node, 'unknown', LONG);

	is(answers($node, $tokens{long}), 't t ', '... the last renewal on the primary');
	$node->stop('immediate');

	$before = time;
	$standby->promote;
	$standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'no promotion';
	$after = time;

	is_whole($standby, "$which, promoted", $before, $after, $tokens{long});

	# nobody gets a new lease yet, be it never so free
	is(ask($standby, "SELECT pglock.try_lease('free')"), '', "$which, promoted: no new lease within the grace");
	is($reader->query("SELECT pglock.try_lease('free for old sessions')"), '', '... for old sessions, either');
	is(answers($standby, $tokens{long}), 't t ', '... those that are held go on');
	is(ask($standby, "SELECT pglock.acquire_lease('free in vain', timeout => '10ms')"), '', '... waiting ends with the timeout');

	$standby->append_conf('postgresql.conf', "pglock.lease_grace = @{[ GRACE ]}");
	$standby->reload;
	$standby->poll_query_until('postgres', "SELECT current_setting('pglock.lease_grace') ~ '^@{[ GRACE ]}s?\$'") or die 'no reload';

	my $first = acquire($standby, 'free later', LONG);
	my $now = time;

	cmp_ok($now, '>=', $before + GRACE, '... whoever waits gets one after that');
	cmp_ok($first, '>', $unknown, '... with a token greater than all that the standby had not heard of');
	is(ask($standby, "SELECT pglock.renew_lease('unknown', $unknown), pglock.holds_lease('unknown', $unknown)"),
		'f|f', '... the lease that was lost is not held');
	is(ask($standby, "SELECT pglock.check_lease('unknown', $unknown)"), '55000', '... and nothing is written under it');
	cmp_ok(acquire($standby, 'unknown', LONG), '>', $unknown, '... another can have it');
	end_session($reader);

	# after a restart there is no grace
	$standby->append_conf('postgresql.conf', 'pglock.lease_grace = 1h');
	$before = time;
	$standby->restart;
	$after = time;
	isnt(ask($standby, "SELECT pglock.try_lease('restarted')"), '', "$which, promoted and restarted: there is no grace");
	is_whole($standby, '...', $before, $after, $tokens{long});

	stop_and_check_log($standby);
	is_crash_free($node, killed => [$killed]);
}

done_testing();
