# PgBouncer: a PgBouncer in front of a server.
#
# The environment variable BOUNCER names its program; a test without it has to skip.

package PgBouncer;

use strict;
use warnings;
use IPC::Run;
use PostgreSQL::Test::Utils;

my @running;

# Starts one. `pools`: name => mode and size, as PgBouncer writes them; `roles`: who may use them.
sub start
{
	my ($class, $node, %params) = @_;
	my $self = bless { node => $node, host => PostgreSQL::Test::Utils::tempdir_short(), port => $node->port }, $class;
	my $file = "$self->{host}/pgbouncer.ini";
	my $log = "$PostgreSQL::Test::Utils::log_path/" . $node->name . '-pgbouncer.log';
	my $server = 'host=' . $node->host . ' port=' . $node->port . ' dbname=postgres';
	my $pools = join "\n", map { "$_ = $server $params{pools}{$_}" } sort keys %{ $params{pools} };

	append_to_file("$file.users", join '', map { qq{"$_" ""\n} } @{ $params{roles} }, 'console');
	append_to_file($file, <<"END");
[databases]
$pools

[pgbouncer]
unix_socket_dir = $self->{host}
listen_port = $self->{port}
auth_type = trust
auth_file = $file.users
admin_users = console
END
	# from 1.21 on it would prepare statements by itself
	append_to_file($file, "max_prepared_statements = 0\n") if can_prepare();
	$self->{process} = IPC::Run::start([ $ENV{BOUNCER}, $file ], '<', \undef, '>', $log, '2>&1');
	push @running, $self;
	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return $self if -S "$self->{host}/.s.PGSQL.$self->{port}";
		last if !$self->{process}->pumpable;
		select undef, undef, undef, 0.1;
	}
	die 'PgBouncer does not listen: ' . slurp_file($log);
}

sub stop
{
	my ($self) = @_;

	$self->{process}->kill_kill if $self->{process};
	undef $self->{process};
	return;
}

END
{
	local $?;
	$_->stop foreach @running;
}

sub host { return $_[0]->{host}; }

# Can it prepare statements in whatever session a client has?
sub can_prepare
{
	my ($version) = `$ENV{BOUNCER} --version` =~ /PgBouncer 1\.(\d+)/;

	return $version >= 21;
}

# How a role, `app` unless it is named, connects to a pool.
sub connection
{
	my ($self, $pool, $role) = @_;

	$role //= 'app';
	return "host=$self->{host} port=$self->{port} user=$role dbname=$pool";
}

# What a client says and gets that comes and goes: its output and its errors.
sub visit
{
	my ($self, $pool, $sql, $role) = @_;
	my ($stdout, $stderr);

	$self->{node}->psql('postgres', $sql, connstr => $self->connection($pool, $role), stdout => \$stdout, stderr => \$stderr,
		on_error_stop => 0);
	return wantarray ? ($stdout, $stderr) : $stdout;
}

# The same for a command of PgBouncer's.
sub console
{
	my ($self, $command) = @_;

	return $self->visit('pgbouncer', $command, 'console');
}

1;
