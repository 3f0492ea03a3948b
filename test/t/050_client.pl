# The C++ client: each public header compiles alone, its unit tests and its tests against a server
# pass, the examples do what they say, it installs, and what docs/cpp.md shows of it compiles and runs
# where it is installed.
#
# CXX and SANITIZE (address,undefined) in the environment are for the compiler.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use ClientTests;
use Cwd 'abs_path';
use Docs;
use IO::Socket::UNIX;
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes 'usleep';

my $root = abs_path("$FindBin::RealBin/../..");
my $build = "$PostgreSQL::Test::Utils::tmp_check/client";
my $prefix = "$build/prefix";
my $compiler = $ENV{CXX} // 'g++';
my $started = 0;
my $warnings = '-Wall -Wextra -Wpedantic -Wconversion -Werror';
# what other sessions hold is looked at by its name
my $node = new_server('client', conf => "shared_preload_libraries = 'postgres_lock'\nmax_prepared_transactions = 1\n");

$ENV{PGHOST} = $node->host;
$ENV{PGPORT} = $node->port;
$ENV{PGDATABASE} = 'postgres';

# Starts an example, which writes into files: what several wrote into pipes might be left unread.
sub start_example
{
	my ($program, @arguments) = @_;
	my $output = "$build/output" . $started++;

	return {
		output => $output,
		run => IPC::Run::start([ "$build/$program", @arguments ], '<', \undef, '>', $output, '2>&1')
	};
}

# What it has written and its exit code, when it has ended.
sub finish_example
{
	my ($example) = @_;

	$example->{run}->finish;
	return (slurp_file($example->{output}), $example->{run}->result(0));
}

sub run_example
{
	return finish_example(start_example(@_));
}

sub wait_for_leader
{
	my ($name) = @_;

	$node->poll_query_until('postgres', "SELECT leader = '$name' FROM leadership")
	  or die "$name does not lead";
	return;
}

# A connection to a server that is about to listen.
sub connect_to
{
	my ($path) = @_;

	for (my $tries = 0; $tries < 1800; $tries++)
	{
		my $client = IO::Socket::UNIX->new(Peer => $path, Timeout => 180);

		if ($client)
		{
			$client->autoflush(1);
			return $client;
		}
		usleep(100_000);
	}
	die "nobody listens at $path";
}

# Does the compiler take a statement without a warning?
sub compiles
{
	my ($statement) = @_;
	my $source = "#include <postgres_lock/lease.hpp>\n#include <postgres_lock/libpq.hpp>\n"
	  . "void take(PGconn *connection) { $statement }\n";

	return IPC::Run::run(
		[ 'sh', '-c', "$compiler -std=c++20 $warnings -fsyntax-only -I$root/src/client "
			  . '$(pkg-config --cflags libpq) -x c++ -' ],
		'<', \$source, '>&', \my $said);
}

# a guard without a name would release at once
foreach my $guard (
	[ 'guard', 'connection, "a"' ],
	[ 'guard', 'connection, {"a", "b"}' ],
	[ 'guard', 'connection, std::vector<pglock::key>{"a"}' ],
	[ 'slot_guard', 'connection, "a", 2' ],
	[ 'lease_guard', 'connection, "a"' ])
{
	my ($type, $arguments) = @$guard;

	ok(compiles("pglock::$type guard($arguments);") && !compiles("pglock::$type($arguments);"),
		"$type($arguments): only with a name");
}

# its own tests
make_tests('each header compiles alone', $build, 'headers');
foreach my $program ('unit', 'server', 'async')
{
	make_tests("$program: builds", $build, $program);
	run_tests("$build/$program");
}
if (!$ENV{CXX})
{
	# the asynchronous ones with Boost's Asio: by one compiler and without sanitizers, with which that takes minutes
	make_tests('boost: builds', $build, 'boost', '');
	run_tests("$build/boost");
}
if ($ENV{SANITIZE})
{
	# threads have a sanitizer of their own, which goes with no other
	make_tests('async: builds for threads', "$build/thread", 'threads', 'thread');
	run_tests("$build/thread/threads");
}

# two shared objects that hide their symbols know of each other's locks; clang has no symbols that are
# one even among those that are loaded apart
make_tests('the plugins compile', $build, 'plugins');
succeeds("plugins that are loaded $_: exclude each other",
	"$build/plugin_host", $_, "$build/plugin_one.so", "$build/plugin_two.so")
  foreach 'global', ($compiler =~ /clang/ ? () : 'local');

# the examples
make_tests('the examples compile', $build, 'examples');

# cron_job: at most one at a time
my $gate = "$build/gate";
my $job = start_example('cron_job', 'nightly', "until test -e $gate; do sleep 0.05; done; echo done");

$node->poll_query_until('postgres', "SELECT NOT pglock.is_free('nightly')") or die "no job runs";
is_deeply([ run_example('cron_job', 'nightly', 'echo second') ],
	[ "nightly is running already\n", 0 ], 'cron_job: leaves if the job is running');
is_deeply([ run_example('cron_job', 'weekly', 'echo another') ],
	[ "another\n", 0 ], '... and does not mind other jobs');
append_to_file($gate, '');
is_deeply([ finish_example($job) ], [ "done\n", 0 ], '... which goes on to its end');
is_deeply([ run_example('cron_job', 'nightly', 'echo third; false') ],
	[ "third\n", 1 ], '... after which it runs again; a failure is passed on');
my ($said, $code) = run_example('cron_job', 'nightly',
	q{psql -qAtc "SELECT pg_terminate_backend(pid, 60000) FROM pglock.locks WHERE key = 'nightly'"});
like($said, qr/^t\nnightly: FATAL:  terminating connection/, '... and tells if it lost its lock');
is($code, 1, '... as a failure');

# cache_rebuild: one makes it, all read it
my $cache = "$build/report";
my $session = session($node);

$node->safe_psql('postgres', 'CREATE TABLE sales AS SELECT 42 AS amount');
$session->query("SELECT pglock.acquire('cache:$cache')");
my @readers = map { start_example('cache_rebuild', $cache) } 1 .. 4;
wait_for_waiter($node, "cache:$cache", 4);
$session->query('SELECT pglock.release_all()');
my @shown = sort map { (finish_example($_))[0] } @readers;
is_deeply(\@shown, [ "rebuilt\nsales: 42\n", ("sales: 42\n") x 3 ],
	'cache_rebuild: one of four makes the report, and all show it');

$session->query("SELECT pglock.acquire('cache:$cache', shared => true)");
is_deeply([ run_example('cache_rebuild', $cache) ], [ "sales: 42\n", 0 ], '... readers are together');
unlink $cache or die $!;
my $rebuilder = start_example('cache_rebuild', $cache);
wait_for_waiter($node, "cache:$cache");
ok(!-e $cache, '... who makes it waits for those who read');
$session->query('SELECT pglock.release_all()');
is_deeply([ finish_example($rebuilder) ], [ "rebuilt\nsales: 42\n", 0 ], '... and then makes it');
$session->quit;

# leader_election: the next one leads when the first has lost its session
$node->safe_psql('postgres', "CREATE TABLE leadership AS SELECT ''::text AS leader, 0::bigint AS token");
my $first = start_example('leader_election', 'first');
wait_for_leader('first');
my $second = start_example('leader_election', 'second');
wait_for_waiter($node, 'leader');
my $token = $node->safe_psql('postgres', 'SELECT token FROM leadership');
$node->safe_psql('postgres',
	"SELECT pg_terminate_backend(pid) FROM pglock.locks WHERE key = 'leader' AND granted");
my ($output, $status) = finish_example($first);
like($output, qr/^first leads\n(?:.*\n)*first: has to stop$/,
	'leader_election: stops when it has lost its session');
is($status, 1, '... which is a failure');
wait_for_leader('second');
cmp_ok($node->safe_psql('postgres', 'SELECT token FROM leadership'),
	'>', $token, '... and the next one has a greater token');
$second->{run}->signal('TERM');
is_deeply([ finish_example($second) ], [ "second leads\nsecond leaves\n", 0 ], '... until it leaves');

# leader_lease, leader_coroutine: the next one leads when the lease has ended, and nobody writes without it
foreach my $program ('leader_lease', 'leader_coroutine')
{
	$node->safe_psql('postgres', "UPDATE leadership SET leader = '', token = 0");
	$first = start_example($program, 'first');
	wait_for_leader('first');
	$second = start_example($program, 'second');
	$node->poll_query_until('postgres', "SELECT holder = 'first' AND waiters = 1 FROM pglock.leases") or die 'nobody waits';
	$token = $node->safe_psql('postgres', 'SELECT token FROM leadership');
	is($node->safe_psql('postgres', "SELECT pglock.revoke_lease('leader')"), 1, "$program: is revoked");
	($output, $status) = finish_example($first);
	like($output, qr/^first leads\nfirst(?:: lease "leader" is not held with token $token\n| has to stop$)/,
		'... of which the leader hears');
	is($status, 1, '... which is a failure');
	wait_for_leader('second');
	cmp_ok($node->safe_psql('postgres', 'SELECT token FROM leadership'), '>', $token, '... and the next one has a greater token');
	$second->{run}->signal('TERM');
	is_deeply([ finish_example($second) ], [ "second leads\nsecond leaves\n", 0 ], '... until it leaves');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM pglock.leases'), 0, '... and gives the lease back');
}

# job_workers: each does the jobs of its share, and another takes the place of one that ends
my $jobs = 'INSERT INTO jobs SELECT i FROM generate_series(1, 10) AS i';
my $done = 'SELECT bool_and(done_by IS NOT NULL) FROM jobs';
my $shares = 'SELECT string_agg(DISTINCT id % 2 || done_by, \' \') FROM jobs';
$node->safe_psql('postgres', "CREATE TABLE jobs (id int, done_by text); $jobs");
my %workers = map { $_ => start_example('job_workers', $_, 2) } 'first', 'second';
$node->poll_query_until('postgres', $done) or die 'not all jobs are done';
my %index = map { reverse split /(?<=\d)/ } split / /, $node->safe_psql('postgres', $shares);
is(join(' ', sort keys %index), 'first second', 'job_workers: each does a share of the jobs');
$workers{third} = start_example('job_workers', 'third', 2);
$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pglock.locks WHERE key = 'workers' AND NOT granted")
  or die 'nobody waits';
$workers{first}{run}->kill_kill;
$node->safe_psql('postgres', "TRUNCATE jobs; $jobs");
$node->poll_query_until('postgres', $done) or die 'not all jobs are done';
$index{third} = delete $index{first};
is_deeply({ map { reverse split /(?<=\d)/ } split / /, $node->safe_psql('postgres', $shares) },
	\%index, '... one that is killed is replaced');
foreach my $name ('second', 'third')
{
	$workers{$name}{run}->signal('TERM');
	is((finish_example($workers{$name}))[0], "$name is worker $index{$name}\n", '... and each knows its number');
}
is(slurp_file($workers{first}{output}), "first is worker $index{third}\n", '... also the one that was replaced');

# coroutine_server: who waits for a lock does not keep the others waiting
my $socket = "$build/socket";
my $server = start_example('coroutine_server', $socket, 3);
my @clients = map { connect_to($socket) } 1 .. 3;
print $_ "42\n" foreach @clients;
is_deeply([ map { scalar <$_> } @clients ], [ ("done\n") x 3 ], 'coroutine_server: serves all');
$session = session($node);
$session->query("SELECT pglock.acquire('account:42')");
print { $clients[0] } "42\n";
wait_for_waiter($node, 'account:42');
print { $clients[1] } "43\n";
is(scalar readline($clients[1]), "done\n", '... another account at once');
$session->query('SELECT pglock.release_all()');
is(scalar readline($clients[0]), "done\n", '... and the first when it is free');
$session->query("SELECT pglock.acquire('account:42')");
print { $clients[0] } "42\n";
is(scalar readline($clients[0]), "busy\n", '... or says that it is not');
close $clients[2];
$clients[2] = connect_to($socket);
print { $clients[2] } "44\n";
is(scalar readline($clients[2]), "done\n", '... and goes on when a client has gone');
$server->{run}->signal('TERM');
is_deeply([ finish_example($server) ], [ '', 0 ], '... until it is ended');
$session->quit;

# installed
succeeds('installs without a server', 'make', '-s', '-C', $root, 'install-client', "prefix=$prefix",
	'PG_CONFIG=/nonexistent');
my @headers = map { s,.*/postgres_lock/,,r } glob "$root/src/client/postgres_lock/{,detail/}*.hpp";
my @installed = map { s,.*/postgres_lock/,,r } glob "$prefix/include/postgres_lock/{,detail/}*.hpp";
is_deeply(\@installed, \@headers, 'all headers');

my ($version) = slurp_file("$root/postgres_lock.control") =~ /^default_version = '(.*)'$/m;
$ENV{PKG_CONFIG_PATH} = "$prefix/lib/pkgconfig";
is(succeeds('pkg-config knows it', 'pkg-config', '--modversion', 'postgres_lock'),
	"$version\n", '... with its version');

# what docs/cpp.md shows is built by pkg-config, and once by CMake
my $document = 'docs/cpp.md';
my @examples = examples(document($document), 'cpp');

foreach my $number (1 .. @examples)
{
	my $source = "$build/example$number.cpp";

	open my $handle, '>', $source or die $!;
	print $handle $examples[ $number - 1 ];
	close $handle;

	my $packages = join ' ', 'postgres_lock', ($examples[ $number - 1 ] =~ /pqxx/ ? 'libpqxx' : ()),
	  ($examples[ $number - 1 ] =~ /cluster/ ? 'libcrypto' : ());

	succeeds("example $number of $document compiles", 'sh', '-c',
		"$compiler -std=c++20 $warnings $source -o $build/example$number "
		  . "\$(pkg-config --cflags --libs $packages)");
	succeeds('... and runs', "$build/example$number");
}
is(scalar @examples, 10, 'there are examples');
my @unnamed = grep { document($document) !~ m,\(\.\./test/client/examples/$_\), }
  map { s,.*/,,r } glob "$root/test/client/examples/*.cpp";
is_deeply(\@unnamed, [], '... and leads to all programs');

succeeds('CMake finds it', 'cmake', '-S', "$root/test/client/consumer", '-B', "$build/cmake",
	"-DCMAKE_PREFIX_PATH=$prefix", "-DCMAKE_CXX_COMPILER=$compiler", "-DSOURCE=$build/example1.cpp");
succeeds('... and builds with it', 'cmake', '--build', "$build/cmake");
succeeds('... what runs', "$build/cmake/consumer");

succeeds('uninstalls', 'make', '-s', '-C', $root, 'uninstall-client', "prefix=$prefix",
	'PG_CONFIG=/nonexistent');
is_deeply([ glob "$prefix/{include/*,lib/cmake/*,lib/pkgconfig/*}" ], [], 'and nothing is left');

is($node->safe_psql('postgres', "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"),
	0, 'no lock is left');
stop_and_check_log($node);
done_testing();
