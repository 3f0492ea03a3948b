# Keys on four servers, each by the rule of docs/ha.md: the C++ client's cluster with its example, and the recipe in
# Python, which agree with each other and with SQL.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use ClientTests;
use Cwd 'abs_path';
use Docs;
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = abs_path("$FindBin::RealBin/../..");
my $build = "$PostgreSQL::Test::Utils::tmp_check/many_servers";
my @nodes = map { new_server("server$_", conf => "shared_preload_libraries = 'postgres_lock'\nfsync = off\n") } 0 .. 3;
my @strings = map { $_->connstr('postgres') } @nodes;

$ENV{SERVERS} = join "\n", @strings;
$ENV{PG_CTL} = $nodes[0]->installed_command('pg_ctl');

# What an answer of each server says.
sub on_all
{
	my ($sql) = @_;

	return [ map { $_->safe_psql('postgres', $sql) } @nodes ];
}

sub none_held
{
	my ($title) = @_;

	return is_deeply(on_all("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), [ (0) x 4 ], $title);
}

# the client's own tests, which stop a server and start it again
make_tests('servers: builds', $build, 'servers');
run_tests("$build/servers");
$_->_update_pid(1) foreach @nodes;
none_held('nothing is left');

# the example
make_tests('the example compiles', $build, "$build/many_servers");

sub start_command
{
	my ($command, $things, $output) = @_;

	return IPC::Run::start([ "$build/many_servers", $command, $things, @strings ], '<', \undef, '>', $output, '2>&1');
}

# What it prints, and its exit code.
sub run_command_with
{
	my ($command, $things) = @_;
	my $output = "$build/output";
	my $run = start_command($command, $things, $output);

	$run->finish;
	return [ slurp_file($output), $run->result(0) ];
}

# things of the servers 0, 1, 2 and 3
my ($leader, $report, $order, $account) = ('leader', 'nightly report', 'order:42', '16055');
my $gate = "$build/gate";
my $first = start_command("until test -e $gate; do sleep 0.05; done; echo done", "$account,$leader,$order", "$build/first");

$nodes[3]->poll_query_until('postgres', "SELECT NOT pglock.is_free('$account')") or die 'no command runs';
is_deeply(on_all('SELECT string_agg(key, \',\') FROM pglock.locks'), [ $leader, '', $order, $account ],
	'many_servers: each thing is locked on its server');
is_deeply(run_command_with('echo second', "$report,$order"), [ "in use\n", 0 ], '... excludes others who use one of them');
is_deeply(run_command_with('echo third', $report), [ "third\n", 0 ], '... and nobody else');
append_to_file($gate, '');
$first->finish;
is(slurp_file("$build/first"), "done\n", '... goes on to its end');
is_deeply(run_command_with('echo fourth; false', "$report,$order"), [ "fourth\n", 1 ], '... after which others run');
none_held('... and nothing is left');

$nodes[1]->stop('immediate');
my ($said, $code) = @{ run_command_with('echo fifth', "$leader,$report") };
like($said, qr/^server 1 \(\S+:${\ $nodes[1]->port}\): /, '... names a server that is down');
is($code, 1, '... which is a failure');
is_deeply(run_command_with('echo sixth', "$leader,$order,$account"), [ "sixth\n", 0 ], '... but not for things of the others');
$nodes[1]->start;
is_deeply(run_command_with('echo seventh', "$leader,$report"), [ "seventh\n", 0 ], '... and not when it is up again');
none_held('... and nothing is left');

# Python: the recipe, for whoever copies it, with the vectors and with the servers
my ($recipe) = grep { /def server_of/ } examples(section('docs/ha.md', 'Many servers'), 'python');
my $python = -x '/usr/bin/python3' ? '/usr/bin/python3' : 'python3';

sub runs_python
{
	my ($title, $program, @arguments) = @_;

	append_to_file("$build/$title.py", $program);
	return succeeds("Python: $title", $python, '-B', "$build/$title.py", @arguments);
}

isnt($recipe, undef, 'there is a recipe');
runs_python('agrees with the vectors', $recipe =~ s/^import psycopg\n//mr . <<'END', "$root/test/server_of.tsv");

import sys

with open(sys.argv[1], encoding="utf-8", newline="\n") as vectors:
    lines = [line.rstrip("\n").split("\t") for line in vectors][1:]
assert len(lines) == 57
for key, _, servers, server in lines:
    assert server_of(key, int(servers)) == int(server), (key, servers)
assert server_of(5, 16) == server_of("5", 16)
END

SKIP:
{
	if (!IPC::Run::run([ $python, '-c', 'import psycopg' ], '<', \undef, '>&', \my $output))
	{
		die 'there is no psycopg' if $ENV{CI};
		skip 'there is no psycopg', 2;
	}
	my $locked = runs_python('locks each key on its server', "$recipe\n" . <<'END', @strings);

import sys

connections = connect_all(sys.argv[1:])
for key in "leader", "nightly report", "order:42", "16055":
    connection = connection_for(connections, key)
    connection.execute("CALL pglock.lock(%s, %s)", [key, "5s"])
    print(*(c.execute("SELECT count(*) FROM pglock.session_holds()").fetchone()[0] for c in connections))
    connection.execute("SELECT pglock.release(%s)", [key])
END
	is($locked, "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", '... and on no other');
}

none_held('nothing is left');
stop_and_check_log($_) foreach @nodes;
done_testing();
