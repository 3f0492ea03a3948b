# Proxy: servers with locks of their own, and one in front of them with the extension postgres_lock_proxy.

package Proxy;

use strict;
use warnings;
use Exporter 'import';
use PgLock;
use PostgreSQL::Test::Cluster;
use Test::More;

our @EXPORT = qw(has_plproxy start_servers start_proxy add_servers remove_servers call_on);

# Does the PostgreSQL that is tested have PL/Proxy?
sub has_plproxy
{
	chomp(my $folder = `pg_config --sharedir`);
	return -e "$folder/extension/plproxy.control";
}

# So many servers, called by their numbers.
sub start_servers
{
	my ($count) = @_;

	return map { new_server("server$_", conf => <<'END') } 0 .. $count - 1;
shared_preload_libraries = 'postgres_lock'
shared_buffers = 8MB
client_connection_check_interval = 100
END
}

# A server with the extension for a proxy, which knows no server yet.
sub start_proxy
{
	my ($name) = @_;
	my $proxy = new_server($name // 'proxy', extension => 0, conf => "client_connection_check_interval = 100\n");

	$proxy->safe_psql('postgres', 'CREATE EXTENSION postgres_lock_proxy CASCADE');
	return $proxy;
}

# Tells the proxy of more servers, numbered from `first`, which are in that state; in that database, if it is not postgres.
sub add_servers
{
	my ($proxy, $first, $state, @servers) = @_;
	my $database = ref $servers[-1] ? 'postgres' : pop @servers;
	my $rows = join ', ', map { sprintf "(%d, \$\$%s\$\$, '$state')", $first++, $_->connstr('postgres') } @servers;

	$proxy->safe_psql($database, "INSERT INTO pglock.servers VALUES $rows");
	return;
}

# Has the proxy forget all servers but the first ones, as docs/ha.md says: locks that are held are looked for elsewhere.
sub remove_servers
{
	my ($proxy, $left) = @_;

	$proxy->safe_psql('postgres', <<"END");
BEGIN;
ALTER TABLE pglock.servers DISABLE TRIGGER keep_number;
DELETE FROM pglock.servers WHERE server >= $left;
ALTER TABLE pglock.servers ENABLE TRIGGER keep_number;
COMMIT;
END
	return;
}

# What the query answers in a session, with the messages it got meanwhile.
sub call_on
{
	my ($session, $query) = @_;

	$session->{stderr} = '';
	my $answer = $session->query($query);
	my $messages = $session->{stderr};

	$session->{stderr} = '';
	return ($answer, $messages);
}

1;
