# A client's machine vanishes: what the settings for production do about it, and what happens without each of them.
#
# The client is in a network namespace of its own, and its cable is pulled: the server's packets are not answered any
# more. test/test.sh starts this in a namespace, with the capabilities to make another. The times are shorter than
# those of the documentation; it takes about ten seconds.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run;
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes 'usleep';

use constant {
	SERVER => '10.77.0.1',
	CLIENT => '10.77.0.2',
};

my $documented = slurp_file("$FindBin::RealBin/../../docs/operations.md");

unless (can_make_namespaces())
{
	my $why = 'network namespaces cannot be made here';

	plan(skip_all => $why) unless $ENV{CI};
	fail($why);
	done_testing();
	exit;
}

# a process that keeps the client's namespace
my $machine = IPC::Run::start([qw(unshare --net sleep 3600)], '<', \undef, '>&', \my $output);
my $pid = $machine->{KIDS}[0]{PID};
my @on_client = ('nsenter', "--net=/proc/$pid/ns/net");

lay_cable();

my $node = new_server('vanished', conf => sprintf <<'END', SERVER);
shared_preload_libraries = 'postgres_lock'
listen_addresses = '127.0.0.1, %s'
client_connection_check_interval = 500ms
tcp_keepalives_idle = 1
tcp_keepalives_interval = 1
tcp_keepalives_count = 2
tcp_user_timeout = 3s
END

$node->append_conf('pg_hba.conf', 'host all all ' . CLIENT . '/32 trust');
$node->reload;

like($documented, qr/^$_ = \d+/m, "$_ is among the settings for production")
  foreach qw(client_connection_check_interval tcp_keepalives_idle tcp_keepalives_interval tcp_keepalives_count
  tcp_user_timeout);

# Of each kind one session that has the settings, and one that lacks that which matters.
my %kinds = (
	holder => [ '', 'tcp_keepalives_idle=7200', "SELECT pglock.acquire(:'key');" ],
	'holder in a statement' =>
	  [ '', 'client_connection_check_interval=0', "SELECT pglock.acquire(:'key');\nSELECT pg_sleep(3600);" ],
	# it is granted the lock before keepalives are due
	waiter => [ 'tcp_keepalives_idle=60', 'tcp_keepalives_idle=60 tcp_user_timeout=0', "SELECT pglock.acquire(:'key');" ]);
my @kinds = sort keys %kinds;
my @clients;
my $local = session($node);

foreach my $kind (@kinds)
{
	my ($with, $without, $sql) = @{ $kinds{$kind} };

	$local->query_safe("SELECT pglock.acquire('$kind $_')") foreach $kind eq 'waiter' ? ('with', 'without') : ();
	start_client("$kind with", $with, $sql);
	start_client("$kind without", $without, $sql);
}

is(system(@on_client, qw(ip address del), CLIENT . '/24', 'dev', 'client'), 0, 'the cable is pulled');
$local->query_safe("SELECT pglock.release('waiter $_')") foreach 'with', 'without';

ok($node->poll_query_until('postgres', "SELECT pglock.is_free('$_ with')"), "$_: free with the settings")
  foreach @kinds;
is($node->safe_psql('postgres', "SELECT count(*) FROM pglock.holders('$_ without')"), 1, "$_: still held without")
  foreach @kinds;
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '% with'"),
	0, 'the sessions have ended');

$_->kill_kill(grace => 0) foreach @clients, $machine;
$local->quit;
stop_and_check_log($node);
done_testing();

sub can_make_namespaces
{
	my @commands = ([qw(ip link set lo up)], [qw(unshare --net ip link set lo up)]);

	return !grep { !IPC::Run::run($_, '<', \undef, '>&', \my $ignored) } @commands;
}

# Between the namespace that the test is in and the client's. The server knows its neighbour for good, so that nothing
# but silence says that it has gone.
sub lay_cable
{
	my $ours = readlink '/proc/self/ns/net';

	usleep(1000) until readlink("/proc/$pid/ns/net") ne $ours;
	system_or_bail(@$_)
	  foreach [ qw(ip link add server type veth peer name client netns), $pid ],
	  [ qw(ip address add), SERVER . '/24', qw(dev server) ],
	  [qw(ip link set server up)],
	  [ @on_client, qw(ip address add), CLIENT . '/24', qw(dev client) ],
	  [ @on_client, qw(ip link set client up) ];

	my ($address) = `@on_client ip -oneline link show client` =~ m{link/ether (\S+)};

	system_or_bail(qw(ip neighbour replace), CLIENT, 'lladdr', $address, qw(nud permanent dev server));
	return;
}

# Starts psql on the client, which runs `sql` and keeps its connection, and waits until it has or wants the lock.
sub start_client
{
	my ($name, $settings, $sql) = @_;
	my @options = map { "-c $_" } split / /, $settings;
	my $client = IPC::Run::start(
		[
			@on_client, 'env', "PGAPPNAME=$name", "PGOPTIONS=@options", 'psql', '-X', '-q', '-h', SERVER, '-p', $node->port,
			'-v', "key=$name", 'postgres'
		],
		'<', \my $statements, '>&', \my $ignored);

	$statements = "$sql\n";
	$client->pump while length $statements;
	push @clients, $client;
	$node->poll_query_until('postgres', <<"END") or die "$name does not come";
SELECT EXISTS (SELECT FROM pglock.locks JOIN pg_stat_activity AS session USING (pid)
	WHERE key = '$name' AND session.application_name = '$name' AND (wait_event = 'PgSleep' OR '$name' NOT LIKE '%statement%'))
END
	return;
}
