# Drivers: the programs of test/drivers, and how to run them.
#
# DRIVERS in the environment is a folder with what is no package of the system: `trixie` is the Python of Debian 13,
# and the programs are the C++ client and the workers of Go and Rust; test/drivers.sh fills it. NODE_PATH says where
# npm's packages are. A driver that is not there is skipped by its name; in CI that is a failure.

package Drivers;

use strict;
use warnings;
use Cwd 'abs_path';
use Exporter 'import';
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PgLock;
use Test::More;
use Worker;

our @EXPORT = qw(driver_names driver new_driver_server start_worker start_workers start_lease_workers
  stop_workers print_table);

my $programs = abs_path(dirname(__FILE__) . '/../drivers');
my $others = $ENV{DRIVERS} // '/nonexistent';
my @drivers;

# A Python driver is there if the modules are.
sub add_python
{
	my ($name, $program, $modules, %options) = @_;
	my @debian = (-x '/usr/bin/python3' ? '/usr/bin/python3' : 'python3', '-B');
	my ($loader) = glob "$others/trixie/usr/lib/*/ld-linux*.so.*";
	# its own loader and libraries, and nothing of the system's
	my @trixie = (
		'env', "PYTHONHOME=$others/trixie/usr", "PYTHONPYCACHEPREFIX=$others/pycache",
		$loader // '/nonexistent', '--library-path', dirname($loader // ''), "$others/trixie/usr/bin/python3");

	foreach my $python ([ '', @debian ], [ ' of trixie', @trixie ])
	{
		my ($release, @python) = @$python;

		push @drivers,
		  {
			name => $name . $release,
			check => [ @python, '-c', "import $modules" ],
			command => [ @python, "$programs/$program" ],
			%options
		  };
	}
	return;
}

# `unprepared_only` has no prepared statements, and `prepared_only` has no others; what `calls_unprepared` prepares
# are not CALLs. What is `transaction_only` has no locks of session scope, and so no release that could fail. Some
# behave `otherwise` in one respect, as docs/drivers.md says. `interruptions` are what a program may suffer while it
# takes a lock; a driver that `closes` its connection then leaves no lock by itself. `given_up` is what becomes of the
# connection when a program gives up while it waits; one that is `deaf` notices when the server has answered. A `trap`
# is what comes of what the driver's file warns of. If it has a recipe for `slots`, these are the scopes of its
# examples. `lease` is the program of the recipe for leases, if there is one.
my @signals = ('SIGINT', 'signal');
my @scopes = ('session', 'transaction');
my @cancels = ('SIGINT', 'cancel', 'timeout');

add_python('asyncpg', 'asyncpg_lock.py', 'asyncpg', interruptions => \@cancels, lease => 'asyncpg_lease.py');
add_python('psycopg2', 'psycopg2_lock.py', 'psycopg2', interruptions => \@signals, unprepared_only => 1,
	lease => 'psycopg2_lease.py');
add_python('psycopg 3', 'psycopg_lock.py', 'psycopg', interruptions => \@signals, slots => \@scopes,
	lease => 'psycopg_lease.py');
add_python('psycopg 3 async', 'psycopg_async_lock.py', 'psycopg', interruptions => \@cancels,
	lease => 'psycopg_async_lease.py');
add_python('SQLAlchemy', 'sqlalchemy_lock.py', 'sqlalchemy, psycopg2', interruptions => \@signals,
	unprepared_only => 1, otherwise => 'no snapshot', lease => 'sqlalchemy_lease.py');
add_python('SQLAlchemy async', 'sqlalchemy_async_lock.py', 'sqlalchemy, asyncpg, greenlet',
	interruptions => \@cancels, prepared_only => 1, otherwise => 'no snapshot', lease => 'sqlalchemy_async_lease.py');
add_python('Django', 'django_lock.py', 'django, psycopg2', interruptions => \@signals, unprepared_only => 1,
	given_up => 'closed', deaf => 1, trap => 'true', lease => 'django_lease.py');

# So is one of npm's. What wants a newer Node.js than there is, is left out.
sub add_node
{
	my ($name, $program, $modules, %options) = @_;

	if (node_version() < ($options{node} // 0))
	{
		diag("skipped: $name, which needs Node.js $options{node}");
		return;
	}
	push @drivers,
	  {
		name => $name,
		check => [ 'node', '-e', join ';', map { qq(require("$_")) } split / /, $modules ],
		command => [ 'node', "$programs/$program" ],
		%options
	  };
	return;
}

sub node_version
{
	my ($major) = eval { run_command([ 'node', '--version' ]) } =~ /^v(\d+)/;

	return $major // 'inf';
}

# Debian's know its libraries; others may come first on the PATH.
my ($ruby, $php) = map { -x "/usr/bin/$_" ? "/usr/bin/$_" : $_ } 'ruby', 'php';
my $jar = '/usr/share/java/postgresql.jar';

push @drivers,
  {
	name => 'node-postgres',
	check => [ 'node', '-e', 'require("pg")' ],
	command => [ 'node', "$programs/node_postgres.js" ],
	interruptions => [ 'abort', 'query_timeout' ],
	slots => \@scopes,
	lease => 'node_postgres_lease.js'
  },
  {
	name => 'JDBC',
	check => [ 'sh', '-c', "javac -version && test -f $jar" ],
	command => [ 'java', '-XX:TieredStopAtLevel=1', '-XX:+UseSerialGC', '-cp', $jar, "$programs/JdbcLock.java" ],
	interruptions => ['socket timeout'],
	slots => ['session'],
	lease => 'JdbcLease.java',
	closes => 1
  },
  {
	name => 'DBD::Pg',
	check => [ 'perl', '-MDBD::Pg', '-e', '1' ],
	command => [ 'perl', "$programs/dbd_pg.pl" ],
	interruptions => ['signal'],
	calls_unprepared => 1,
	lease => 'dbd_pg_lease.pl'
  },
  {
	name => 'C++ client',
	check => [ 'test', '-x', "$others/libpq_guard" ],
	command => ["$others/libpq_guard"],
	otherwise => 'nested'
  },
  {
	name => 'Ruby pg',
	check => [ $ruby, '-e', 'require "pg"' ],
	command => [ $ruby, "$programs/ruby_pg.rb" ],
	interruptions => ['timeout'],
	given_up => 'closed',
	trap => 'true',
	lease => 'ruby_pg_lease.rb'
  },
  {
	name => 'ActiveRecord',
	check => [ $ruby, '-e', 'require "pg"; require "active_record"' ],
	command => [ $ruby, "$programs/active_record.rb" ],
	interruptions => ['timeout'],
	given_up => 'closed',
	trap => 'true, false',
	lease => 'active_record_lease.rb'
  },
  {
	name => 'PHP PDO',
	check => [ $php, '-r', 'exit((int) !extension_loaded("pdo_pgsql"));' ],
	command => [ $php, "$programs/php_pdo.php" ],
	interruptions => ['signal'],
	given_up => 'kept',
	deaf => 1,
	trap => '22P02',
	lease => 'php_pdo_lease.php'
  },
  {
	name => 'Go lib/pq',
	check => [ 'test', '-x', "$others/lib_pq" ],
	command => ["$others/lib_pq"],
	interruptions => ['context'],
	closes => 1,
	given_up => 'closed',
	trap => '1000000 s',
	unprepared_only => 1,
	lease => 'lib_pq_lease'
  },
  {
	name => 'Go pgx',
	check => [ 'test', '-x', "$others/pgx_lock" ],
	command => ["$others/pgx_lock"],
	interruptions => ['context'],
	slots => ['session'],
	closes => 1,
	given_up => 'closed',
	trap => 'not sent',
	lease => 'pgx_lease'
  },
  {
	name => 'Rust tokio-postgres',
	check => [ 'test', '-x', "$others/tokio_postgres" ],
	command => ["$others/tokio_postgres"],
	interruptions => ['dropped future'],
	given_up => 'closed',
	trap => 'true, true',
	prepared_only => 1,
	lease => 'tokio_postgres_lease'
  },
  { name => 'psql', check => ['true'], command => [ 'perl', "$programs/psql.pl" ] };

add_node('postgres.js', 'postgres_js.js', 'postgres', trap => 'false', lease => 'postgres_js_lease.js');
add_node('knex', 'knex_lock.js', 'knex pg', unprepared_only => 1, given_up => 'closed', trap => 'false',
	lease => 'knex_lease.js');
add_node('TypeORM', 'typeorm_lock.js', 'typeorm pg', node => 20, unprepared_only => 1, given_up => 'closed', trap => 'false',
	lease => 'typeorm_lease.js');
add_node('Drizzle', 'drizzle_lock.js', 'drizzle-orm pg', unprepared_only => 1, given_up => 'closed', trap => 'false',
	lease => 'drizzle_lease.js');
add_node('slonik', 'slonik_lock.js', 'slonik', unprepared_only => 1, trap => 'false', lease => 'slonik_lease.js');
add_node('Sequelize', 'sequelize_lock.js', 'sequelize pg', unprepared_only => 1, transaction_only => 1,
	given_up => 'closed', otherwise => 'no snapshot', trap => 'false', lease => 'sequelize_lease.js');
add_node('Prisma', 'prisma_lock.js', 'prisma-client @prisma/adapter-pg', node => 20, unprepared_only => 1,
	transaction_only => 1, otherwise => 'no snapshot', trap => 'P2028', lease => 'prisma_lease.js');

sub driver_names
{
	return map { $_->{name} } @drivers;
}

sub driver
{
	my ($name) = @_;

	return (grep { $_->{name} eq $name } @drivers)[0];
}

# A server for them: JDBC has no other sockets than those of TCP, where it gives a password.
sub new_driver_server
{
	my ($name) = @_;
	my $node = new_server($name, conf => <<'END');
listen_addresses = '127.0.0.1'
shared_preload_libraries = 'postgres_lock'
END

	$ENV{PGHOST} = $node->host;
	$ENV{PGPORT} = $node->port;
	$ENV{PGDATABASE} = 'postgres';
	$ENV{PGUSER} = getpwuid $<;
	$ENV{PGPASSWORD} = join '', map { ('a' .. 'z')[ rand 26 ] } 1 .. 20;
	$node->safe_psql('postgres', "ALTER ROLE CURRENT_USER PASSWORD '$ENV{PGPASSWORD}'");
	unlink $node->data_dir . '/pg_hba.conf';
	$node->append_conf('pg_hba.conf', "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n");
	$node->reload;
	return $node;
}

sub start_worker
{
	my ($name, @arguments) = @_;

	return Worker->start($name, log_file($name, @arguments), @{ driver($name)->{command} }, @arguments);
}

# Where a worker complains, by words that tell it from the test's others
sub log_file
{
	return "$PostgreSQL::Test::Utils::log_path/" . (join('-', basename($0, '.pl'), @_) =~ tr,/,-,r) . '.log';
}

# A worker for each of these drivers, or for all, that is there; notes their versions.
sub start_workers
{
	my @names = @_ ? @_ : driver_names();
	my %workers;

	foreach my $name (@names)
	{
		if (is_there($name))
		{
			$workers{$name} = start_worker($name);
		}
		else
		{
			missed($name);
		}
	}
	foreach my $name (grep { $workers{$_} } @names)
	{
		ok($workers{$name}->is_ready, "$name is ready");
	}
	return %workers;
}

# As start_workers, for the recipes for leases.
sub start_lease_workers
{
	my %workers;

	foreach my $name (grep { driver($_)->{lease} } driver_names())
	{
		my $driver = driver($name);
		my @command = @{ $driver->{command} };

		# its program is beside the one for locks
		$command[-1] =~ s,[^/]+$,$driver->{lease},;
		is_there($name) ? $workers{$name} = Worker->start($name, log_file('lease', $name), @command) : missed($name);
	}
	like($workers{$_}->answer, qr/^ready/, "$_ is ready") foreach sort keys %workers;
	return %workers;
}

sub is_there
{
	my ($name) = @_;
	my $output;

	# it dies of a program that is not there
	return eval { IPC::Run::run(driver($name)->{check}, '<', \undef, '>&', \$output) };
}

sub missed
{
	my ($name) = @_;

	return fail("$name is not installed") if $ENV{CI};
	diag("skipped: $name is not installed");
  SKIP:
	{
		skip("$name is not installed", 1);
	}
	return;
}

sub stop_workers
{
	$_->stop foreach @_;
	return;
}

# print_table(HEADINGS, ROWS): of words, the first a row's name.
sub print_table
{
	my ($headings, @rows) = @_;
	my @widths;

	foreach my $row ($headings, @rows)
	{
		foreach my $column (0 .. $#$row)
		{
			my $width = length $row->[$column];

			$widths[$column] = $width if $width > ($widths[$column] // 0);
		}
	}
	foreach my $row ($headings, @rows)
	{
		diag(join('  ', map { sprintf "%-$widths[$_]s", $row->[$_] } 0 .. $#$row) =~ s/ +\z//r);
	}
	return;
}

1;
