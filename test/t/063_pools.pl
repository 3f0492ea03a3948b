# Pools of connections in the program itself: what becomes of a lock as its connection goes back, and how the recipes
# of test/drivers get on with them.
#
# NODE_PATH in the environment says where node-postgres is.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

my $folder = "$FindBin::RealBin/../pools";
# JDBC wants TCP
my $node = new_server('pools', conf => "listen_addresses = '127.0.0.1'\n");

$ENV{PGHOST} = $node->host;
$ENV{PGPORT} = $node->port;
$ENV{PGUSER} = $node->safe_psql('postgres', 'SELECT current_user');
$ENV{PGDATABASE} = 'postgres';

# What a program found: "free" or "held" for each pool and scope.
sub found_by
{
	my @command = @_;
	my ($stdout, $stderr) = run_command(\@command);

	is($stderr, '', "$command[0] has nothing to complain of");
	return { map { /^(.*)\|(.+)$/ } split /\n/, $stdout };
}

is_deeply(
	found_by('/usr/bin/python3', "$folder/pools.py"),
	{
		'asyncpg|session' => 'free',
		'psycopg_pool|session' => 'held',
		'psycopg2|session' => 'held',
		'SQLAlchemy|session' => 'held',
		map({ ("$_|transaction" => 'free') } 'asyncpg', 'psycopg_pool', 'psycopg2', 'SQLAlchemy'),
		'psycopg_pool, reset|session' => 'free',
		'SQLAlchemy, checkin|session' => 'free',
		'second connection' => 'not given',
	},
	'Python');
is_deeply(
	found_by('/usr/bin/python3', '-B', "$folder/recipes.py"),
	{
		'Session' => 'refused',
		map({ ("$_|second" => 'timed out', "$_|afterwards" => 'free') } 'pool of one', 'pool of several'),
		'no recipe|second' => 'in as well',
		map({ ("$_|signal while waiting" => 'free') } 'psycopg', 'psycopg2'),
	},
	'the recipes');
is_deeply(
	found_by('node', "$folder/pools.js"),
	{
		'node-postgres|session' => 'held',
		'node-postgres|transaction' => 'free',
		'node-postgres, not ended|transaction' => 'held',
		'node-postgres, query_timeout|next user' => 'does not hold it',
		'node-postgres, query_timeout|session' => 'free',
	},
	'node-postgres');
is_deeply(
	found_by(
		'java', '-cp', join(':', map { "/usr/share/java/$_.jar" } qw(HikariCP postgresql slf4j-api slf4j-nop)),
		"$folder/Pools.java", "jdbc:postgresql://127.0.0.1:$ENV{PGPORT}/postgres?user=$ENV{PGUSER}"),
	{ 'HikariCP|session' => 'held', 'HikariCP|transaction' => 'free' },
	'HikariCP');

stop_and_check_log($node);
done_testing();
