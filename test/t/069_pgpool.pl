# Locks behind Pgpool-II, which keeps a session for each client, and sends statements that only read to a standby.
#
# The environment variable PGPOOL names its program.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run;
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

plan(skip_all => 'PGPOOL does not say where Pgpool-II is') unless $ENV{PGPOOL};

my $primary = new_server('primary', init => { allows_streaming => 1 },
	conf => "shared_preload_libraries = 'postgres_lock'\nautovacuum = off\n");
my $standby = PostgreSQL::Test::Cluster->new('standby');

$primary->backup('backup');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
$primary->safe_psql('postgres', 'CREATE ROLE app LOGIN; GRANT pg_read_all_stats TO app');
$primary->wait_for_catchup($standby);

my $folder = PostgreSQL::Test::Utils::tempdir_short();
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $pgpool;

# Starts it, with more of its configuration; reading goes to the standby alone.
sub start_pgpool
{
	my ($more) = @_;
	my $log = "$PostgreSQL::Test::Utils::log_path/pgpool.log";
	my $superuser = getpwuid $>;
	my $file = "$folder/pgpool.conf";

	unlink $file;
	append_to_file($file, <<"END");
backend_clustering_mode = 'streaming_replication'
listen_addresses = ''
port = $port
socket_dir = '$folder'
pcp_socket_dir = '$folder'
wd_ipc_socket_dir = '$folder'
pid_file_name = '$folder/pgpool.pid'
logdir = '$folder'
sr_check_user = '$superuser'
sr_check_period = 1
num_init_children = 3
max_pool = 1
$more
END
	foreach ([ 0, $primary ], [ 1, $standby ])
	{
		my ($number, $node) = @$_;
		my ($host, $backend_port) = ($node->host, $node->port);

		append_to_file($file, <<"END");
backend_hostname$number = '$host'
backend_port$number = $backend_port
backend_weight$number = $number
backend_flag$number = 'DISALLOW_TO_FAILOVER'
END
	}
	append_to_file("$folder/pcp.conf", '');
	$pgpool = IPC::Run::start([ $ENV{PGPOOL}, '-n', '-f', $file, '-F', "$folder/pcp.conf" ], '<', \undef, '>', $log, '2>&1');
	# it has to find out which of the two is the primary
	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		# until it listens psql may be gone before it is asked
		return if (eval { visit('SHOW pool_nodes') } // '') =~ /^0\|.*\|primary\|.*\n1\|.*\|standby\|/;
		select undef, undef, undef, 0.1;
	}
	die 'Pgpool-II does not start: ' . slurp_file($log);
}

sub stop_pgpool
{
	kill INT => slurp_file("$folder/pgpool.pid") =~ /^(\d+)/;
	$pgpool->finish;
	undef $pgpool;
	return;
}

END
{
	local $?;
	stop_pgpool() if $pgpool;
}

sub connection { return "host=$folder port=$port user=app dbname=postgres"; }

# What a client says and gets that comes and goes.
sub visit
{
	my ($sql) = @_;
	my ($stdout, $stderr);

	$primary->psql('postgres', $sql, connstr => connection(), stdout => \$stdout, stderr => \$stderr, on_error_stop => 0);
	return wantarray ? ($stdout, $stderr) : $stdout;
}

my $all_locks = "SELECT coalesce(string_agg(key, ',' ORDER BY key), 'none') FROM pglock.locks";

sub nothing_is_held
{
	ok($primary->poll_query_until('postgres', $all_locks, 'none'), $_[0]);
	return;
}

start_pgpool('');

# What is said to have read only may be answered by the standby, which does not know the primary's locks.
my $holder = session($primary);
my ($stdout, $stderr);

is($holder->query_safe("SELECT pglock.acquire('k')"), 't', 'a session of the primary holds a lock');
is(visit("SELECT current_setting('cluster_name')"), 'standby', 'what reads goes to the standby');
foreach my $view ('locks', 'leases')
{
	($stdout, $stderr) = visit("SELECT count(*) FROM pglock.$view");
	is($stdout, '', "a SELECT from $view answers nothing there");
	like($stderr, qr/ERROR:  cannot .*(on a standby|during recovery)/, '... but an error');
}
foreach (
	[ "SELECT pglock.try('k')", 'f' ],
	[ "SELECT pglock.acquire('k', '1ms')", 'f' ],
	[ "SELECT pglock.is_free('k')", 'f' ],
	[ "SELECT pglock.holders('k')", $holder->query_safe('SELECT pg_backend_pid()') ],
	[ "SELECT pglock.held('k')", 'f' ],
	[ "SELECT pglock.acquire('free'), pglock.release('free')", 't\|t' ],
	[ "SELECT pglock.acquire_slot('s', 2)", '[12]' ],
	[ "SELECT pglock.release_lease('l', pglock.acquire_lease('l'))", 't' ],
	[ "CALL pglock.lock('free')", '' ])
{
	my ($call, $answer) = @$_;

	($stdout, $stderr) = visit($call);
	like($stdout, qr/^$answer$/, "$call is answered by the primary");
	is($stderr, '', '... without an error');
}

# A client's session ends, or is cleaned, with the client.
is($holder->query_safe("SELECT pglock.release('k')"), 't', 'the holder releases its lock');
nothing_is_held('what clients held that have gone');
is(visit("SELECT pglock.acquire('kept'); SELECT pglock.held('kept')"), "t\nt", 'a client has one session as long as it is there');
nothing_is_held('... which is cleaned when it goes');

# A client that is killed while it waits leaves its session waiting, which gets the lock, until its statement ends.
is($holder->query_safe("SELECT pglock.acquire('k')"), 't', 'a session holds a lock');

my $client = IPC::Run::start([ 'psql', '-XAtq', '-d', connection(), '-c', "SELECT pglock.acquire('k'), pg_sleep(3600)" ],
	'<', \undef, '>', \my $ignored, '2>', \my $also_ignored);

wait_for_waiter($primary, 'k');
$client->kill_kill;
wait_for_waiter($primary, 'k');
$holder->query_safe("SELECT pglock.release('k')");
ok($primary->poll_query_until('postgres', "SELECT count(*) = 1 FROM pglock.locks WHERE key = 'k' AND granted"),
	'a client is killed that waits: its session gets the lock');
is( $primary->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM pglock.locks WHERE key = 'k'"), 't',
	'... and keeps it until somebody ends the session');
nothing_is_held('... which frees it');

# The way out for the views.
stop_pgpool();
start_pgpool("primary_routing_query_pattern_list = '.*pglock.*'");
is(visit('SELECT count(*) FROM pglock.locks'), '0', 'primary_routing_query_pattern_list: a SELECT from locks goes to the primary');
is(visit('SELECT count(*) FROM pglock.leases'), '0', '... and one from leases');

stop_pgpool();
end_session($holder);
stop_and_check_log($standby);
stop_and_check_log($primary);
done_testing();
