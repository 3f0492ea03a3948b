# PgLock: what the TAP tests share: a server with the extension, sessions that wait, and the search
# of the server's log that every test ends with.

package PgLock;

use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(new_server session start_waiting finish_waiting wait_for_waiter wait_for_session_end
  end_session is_crash_free stop_and_check_log);

# A started server with the extension in its database postgres. `conf`: more of postgresql.conf;
# `init`: arguments of initdb's wrapper; `extension`: 0 for a server without it.
sub new_server
{
	my ($name, %params) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(extra => [ '--locale=C', '--encoding=UTF8' ], %{ $params{init} // {} });
	# statements in the log would bring the words that the log is searched for
	$node->append_conf('postgresql.conf', "log_statement = none\n" . ($params{conf} // ''));
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION postgres_lock') if $params{extension} // 1;
	return $node;
}

# A session that goes on after an error; to be ended by its quit().
sub session
{
	my ($node, %params) = @_;

	return $node->background_psql('postgres', on_error_stop => 0, %params);
}

# The session runs `sql`, which will have to wait; returns when it has been sent.
sub start_waiting
{
	my ($session, $sql) = @_;

	$session->query_until(qr/on its way/, "\\echo on its way\n$sql;\n\\echo SQLSTATE :SQLSTATE\n");
	return;
}

# Waits for the end of what start_waiting() began, and returns its SQLSTATE.
sub finish_waiting
{
	my ($session) = @_;
	my ($output) = $session->query('');

	return $output =~ /SQLSTATE (\w+)/ ? $1 : "no SQLSTATE in: $output";
}

# Waits until `count` sessions wait for advisory locks: for that of `key` if given.
sub wait_for_waiter
{
	my ($node, $key, $count) = @_;
	my $which = defined $key ? "AND (classid::bigint << 32 | objid::bigint) = pglock.lock_id('$key')" : '';

	$count //= 1;
	$node->poll_query_until('postgres',
		"SELECT count(*) = $count FROM pg_locks WHERE locktype = 'advisory' AND NOT granted $which")
	  or die "nobody waits";
	return;
}

sub wait_for_session_end
{
	my ($node, $pid) = @_;

	$node->poll_query_until('postgres',
		"SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)")
	  or die "session $pid does not end";
	return;
}

# Ends sessions that may have been killed: their psql may have gone, with any exit code.
sub end_session
{
	foreach my $session (@_)
	{
		eval { $session->quit; };
	}
	return;
}

# Nothing in the log says that a server process crashed. `killed`: those the test killed itself.
sub is_crash_free
{
	my ($node, %params) = @_;
	my @log = split /\n/, slurp_file($node->logfile);
	my $killed = join '|', @{ $params{killed} // [] };

	# a "server process", which is a "client backend" since PostgreSQL 19
	@log = grep { !/\(PID ($killed)\) was terminated by signal 9/ } @log if $killed;
	my @crashes = grep { /terminated by signal|TRAP:|PANIC|\(PID \d+\) was terminated/ } @log;

	is(join("\n", @crashes), '', $node->name . ': no crash in the log');
	return;
}

# To be called at the end of every test.
sub stop_and_check_log
{
	my ($node, %params) = @_;

	$node->stop;
	is_crash_free($node, %params);
	return;
}

1;
