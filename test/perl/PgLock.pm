# PgLock: what the TAP tests share: a server with the extension, sessions that wait, and the search
# of the server's log that every test ends with.

package PgLock;

use strict;
use warnings;
use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(new_server describe_extension session start_waiting finish_waiting wait_for_waiter wait_for_session_end
  wait_until_synchronous wait_for_replication end_session run_psqls is_crash_free stop_and_check_log);

# A started server with the extension in its database postgres. `conf`: more of postgresql.conf;
# `init`: arguments of initdb's wrapper; `extension`: 0 for a server without it; `install_path`: the folder
# of another PostgreSQL than that which is tested.
sub new_server
{
	my ($name, %params) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name, install_path => $params{install_path});

	$node->init(extra => [ '--locale=C', '--encoding=UTF8' ], %{ $params{init} // {} });
	# statements in the log would bring the words that the log is searched for
	$node->append_conf('postgresql.conf', "log_statement = none\n" . ($params{conf} // ''));
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION postgres_lock') if $params{extension} // 1;
	return $node;
}

# What belongs to the extension in that database, and who may use it, as lines for is_deeply(): without the
# numbers that differ from database to database.
sub describe_extension
{
	my ($node, $database) = @_;

	return [ split /\n/, $node->safe_psql($database // 'postgres', <<'END') ];
SELECT object.identity, obj_description(objid, classid::regclass::name), initial.initprivs,
	(SELECT (to_jsonb(p) - '{oid,pronamespace,proargdefaults}'::text[], pg_get_function_arguments(p.oid))
		FROM pg_proc p WHERE classid = 'pg_proc'::regclass AND p.oid = objid),
	(SELECT (relkind, relacl, pg_get_viewdef(c.oid)) FROM pg_class c WHERE classid = 'pg_class'::regclass AND c.oid = objid),
	(SELECT jsonb_agg((attname, format_type(atttypid, atttypmod), attnotnull, attacl, col_description(attrelid, attnum))
		ORDER BY attnum) FROM pg_attribute WHERE classid = 'pg_class'::regclass AND attrelid = objid AND attnum > 0),
	(SELECT to_jsonb(s) - 'seqrelid' FROM pg_sequence s WHERE classid = 'pg_class'::regclass AND seqrelid = objid)
FROM pg_depend JOIN pg_extension ON pg_extension.oid = refobjid
CROSS JOIN pg_identify_object(classid, objid, objsubid) AS object
LEFT JOIN pg_init_privs AS initial ON initial.classoid = classid AND initial.objoid = objid
WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass AND extname = 'postgres_lock'
ORDER BY object.type, object.identity, initial.objsubid;
SELECT nspname, nspacl, obj_description(n.oid, 'pg_namespace'), initprivs
FROM pg_namespace n LEFT JOIN pg_init_privs ON objoid = n.oid AND classoid = 'pg_namespace'::regclass
WHERE nspname = 'pglock';
SELECT extversion, extrelocatable, extnamespace::regnamespace, extconfig::regclass[], extcondition
FROM pg_extension WHERE extname = 'postgres_lock';
END
}

# A session that goes on after an error; to be ended by its quit().
sub session
{
	my ($node, %params) = @_;
	my $database = delete $params{database} // 'postgres';
	my $session = $node->background_psql($database, on_error_stop => 0, %params);

	# each question has its time: between two a test may compile for minutes
	$session->set_query_timer_restart;
	return $session;
}

# The session runs `sql`, which will have to wait; returns when it has been sent.
sub start_waiting
{
	my ($session, $sql) = @_;

	my $output =
	  $session->query_until(qr/on its way/, "\\echo on its way\n$sql;\n\\echo SQLSTATE :SQLSTATE\n");

	# a wait that ends at once may have said so in the same breath
	$session->{ended_early} = $output =~ s/.*on its way//sr;
	return;
}

# Waits for the end of what start_waiting() began, and returns its SQLSTATE.
sub finish_waiting
{
	my ($session) = @_;
	my ($output) = $session->query('');

	$output = (delete $session->{ended_early} // '') . $output;
	return $output =~ /SQLSTATE (\w+)/ ? $1 : "no SQLSTATE in: $output";
}

# Waits until `count` sessions wait for advisory locks: for that of `key`, or a slot of it, if given.
# Who has the place in front of those who wait for slots waits, too.
sub wait_for_waiter
{
	my ($node, $key, $count) = @_;
	my $which = defined $key ? "AND (classid::bigint << 32 | objid::bigint) = pglock.lock_id('$key')" : '';

	$count //= 1;
	$node->poll_query_until('postgres',
		"SELECT count(*) = $count FROM pg_locks WHERE locktype = 'advisory' AND (NOT granted OR objsubid = 5) $which")
	  or die "nobody waits:\n" . $node->safe_psql('postgres', 'SELECT pid, state, wait_event, query FROM pg_stat_activity');
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

# Waits until the standby of a primary that has one is synchronous.
sub wait_until_synchronous
{
	my ($primary) = @_;

	$primary->poll_query_until('postgres', "SELECT sync_state = 'sync' FROM pg_stat_replication")
	  or die 'the standby is not synchronous';
	return;
}

# Waits until `count` sessions wait for a standby.
sub wait_for_replication
{
	my ($primary, $count) = @_;

	$primary->poll_query_until('postgres',
		"SELECT count(*) = $count FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
	  or die "there are not $count sessions that wait for the standby";
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

# Runs the script in so many clients at once, which go on after an error and know their number as :client; returns what
# each prints. `times`: how often each does so, with a session for each; `errors`: those are returned, too.
sub run_psqls
{
	my ($node, $script, $count, %params) = @_;
	my $folder = PostgreSQL::Test::Utils::tempdir();
	my @psql = ($node->installed_command('psql'), '-XAtq', '-d', $node->connstr('postgres'), '-f', "$folder/script.sql");
	my @repeat = ('sh', '-c', 'n=$1; shift; for i in $(seq "$n"); do "$@"; done', 'sh', $params{times} // 1);

	append_to_file("$folder/script.sql", $script);
	# from file to file: IPC::Run would serve one client at a time
	my @clients = map {
		IPC::Run::start([ @repeat, @psql, '-v', "client=$_" ], '<', \undef, '>', "$folder/out$_", '2>', "$folder/errors$_")
	} 1 .. $count;

	$_->finish foreach @clients;
	return map { slurp_file("$folder/out$_") . ($params{errors} ? slurp_file("$folder/errors$_") : '') } 1 .. $count;
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
