# Locks of many servers through PL/Proxy: they are those of the servers, what is not possible is refused, and what is
# different from a server of one's own is as docs/ha.md says.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Docs;
use PgLock;
use PostgreSQL::Test::Utils;
use Proxy;
use Test::More;

plan(skip_all => 'this PostgreSQL has no PL/Proxy') unless has_plproxy();

my @servers = start_servers(4);
my $proxy = start_proxy();

sub ask { return $proxy->safe_psql('postgres', $_[0]); }

# The call fails with that SQLSTATE, and a message like that.
sub is_refused
{
	my ($call, $sqlstate, $message) = @_;
	my (undef, undef, $stderr) = $proxy->psql('postgres', "\\set VERBOSITY verbose\n$call");

	like($stderr, qr/ERROR:  $sqlstate: $message/, "$call: $sqlstate");
	return;
}

# The server of the key soon answers the query as expected.
sub is_soon_there
{
	my ($key, $query, $expected, $name) = @_;

	ok($servers[ server_of($key) ]->poll_query_until('postgres', $query, $expected), $name);
	return;
}

sub server_of { return $servers[0]->safe_psql('postgres', "SELECT pglock.server_of('$_[0]', 4)"); }

# A key of that server.
sub key_of
{
	my ($server, $prefix) = @_;

	return $servers[0]->safe_psql('postgres',
		"SELECT '$prefix' || i FROM generate_series(1, 1000) i WHERE pglock.server_of('$prefix' || i, 4) = $server LIMIT 1");
}

sub nothing_is_held
{
	my ($name) = @_;

	ok($proxy->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pglock.locks'), "$name: nothing is held");
	return;
}

#
# The servers
#

is_refused("SELECT pglock.acquire('k')", '55000', 'no server has joined');
add_servers($proxy, 0, 'joining', @servers);
is_refused("SELECT pglock.acquire('k')", '55000', 'no server has joined');

# ... and now by the letter of the document
my ($recipe) = document('docs/ha.md') =~ /^```text\n(CREATE EXTENSION postgres_lock_proxy .*?)^```/ms;

$recipe =~ s/host=locks(\d) dbname=locks/sprintf "host=%s port=%d dbname=postgres", $servers[$1]->host, $servers[$1]->port/eg;
ask('DROP EXTENSION plproxy CASCADE; DROP SCHEMA pglock');
$proxy->safe_psql('postgres', $_) foreach $recipe =~ /(.+?;)\n/gs;
is(ask("SELECT connection LIKE '%lock\\_timeout=1min%' FROM pglock.servers WHERE server = 3"), 't', 'the recipe of the document');
ask("UPDATE pglock.servers SET connection = split_part(connection, ' options', 1)");
is(ask("SELECT count(*) FROM pglock.servers WHERE state = 'joined'"), '4', 'four servers join');
is_refused("INSERT INTO pglock.servers VALUES (5, '')", '23514', 'servers must be numbered');
is_refused($_, '55000', 'the number of servers that have joined cannot be changed')
  foreach (
	'DELETE FROM pglock.servers WHERE server = 3',
	'DELETE FROM pglock.servers',
	'TRUNCATE pglock.servers',
	"UPDATE pglock.servers SET state = 'joining' WHERE server = 3",
	"INSERT INTO pglock.servers VALUES (4, '', 'joined')",
	"INSERT INTO pglock.servers VALUES (4, ''); UPDATE pglock.servers SET state = 'settling' WHERE server = 4",
	"UPDATE pglock.servers SET state = 'joined'");
is(ask('DELETE FROM pglock.servers WHERE server = 4 RETURNING server'), '4', 'a server that has not joined can be removed');

my ($client, $other) = (session($proxy), session($proxy));

$client->query_safe("SELECT pglock.acquire('k' || i), pglock.acquire(i) FROM generate_series(1, 20) i");
foreach my $server (0 .. 3)
{
	my $wrong = "WHERE pglock.server_of(key, 4) <> $server";

	is($servers[$server]->safe_psql('postgres', "SELECT count(*) > 2, count(*) FILTER ($wrong) FROM pglock.locks"),
		't|0', "server $server has its keys and no others");
}
is($other->query_safe('SELECT bool_or(server <> pglock.server_of(key, 4)), count(*) FROM pglock.locks'),
	'f|40', 'the view locks shows those of all');
is($client->query_safe('SELECT pglock.release_all()'), '40', 'release_all() releases them everywhere');
nothing_is_held('release_all()');

# what the servers have, and what of that the proxy has not
sub missing
{
	my ($query) = @_;
	my %is_there = map { $_ => 1 } split /\n/, ask($query);

	return join ' ', sort grep { !$is_there{$_} } split /\n/, $servers[0]->safe_psql('postgres', $query);
}

my $calls = <<'END';
SELECT DISTINCT proname || (SELECT string_agg(':' || name, '' ORDER BY n)
	FROM unnest(proargnames, coalesce(proargmodes, array_fill('i'::"char", ARRAY[pronargs]))) WITH ORDINALITY AS a(name, mode, n)
	WHERE mode <> 'o')
FROM pg_proc WHERE pronamespace = 'pglock'::regnamespace AND pronargs > 0
END
is( missing($calls), join(' ', qw(acquire_raw:lock_id:timeout:shared:scope lock_raw:lock_id:timeout:shared:scope
		release_raw:lock_id:shared renew_leases:tokens:ttl try_raw:lock_id:shared:scope)), 'the proxy lacks these calls alone');
is(missing("SELECT attrelid::regclass || '.' || attname FROM pg_attribute WHERE attrelid IN ('pglock.locks'::regclass, 'pglock.leases'::regclass)"),
	'', 'the views have all columns');
is(ask("SELECT count(*) FROM pg_proc WHERE pronamespace = 'pglock'::regnamespace AND obj_description(oid, 'pg_proc') IS NULL"),
	'0', 'each function has a comment');

like(`pg_dump -d "@{[ $proxy->connstr('postgres') ]}"`, qr/COPY pglock\.servers .*\n0\t/, 'pg_dump takes the servers along');

#
# The calls
#

my $uuid = "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid";

foreach my $key ("'order:42'", '42', $uuid)
{
	is($client->query_safe("SELECT pglock.acquire($key), pglock.try($key, shared => true), pglock.held($key), pglock.is_free($key)"),
		't|t|t|f', "$key: acquire and try");
	is($other->query_safe("SELECT pglock.try($key), pglock.acquire($key, '10ms'), pglock.held($key)"),
		'f|f|f', '... which exclude other clients');
	is($other->query_safe("SELECT count(*) FROM pglock.holders($key)"), '1', '... which see a holder');
	is( (call_on($client, "SELECT pglock.token($key) = pglock.token($key), pglock.release($key), pglock.release($key), pglock.release($key)"))[0],
		't|t|t|f', '... token and release');
	is($client->query_safe("CALL pglock.lock($key, '1s', shared => true)"), '', '... lock, shared');
	is($other->query_safe("SELECT pglock.try($key, shared => true), pglock.release($key)"), 't|t', '... as others may have it');
	is($client->query_safe('SELECT pglock.release_all()'), '1', '... release_all');
	is($client->query_safe("SELECT pglock.acquire_slot($key, 2) IN (1, 2), pglock.try_slot($key, 2) IN (1, 2)"), 't|t', '... slots');
	is($other->query_safe("SELECT pglock.try_slot($key, 2) IS NULL"), 't', '... of which there are no more');
	is($client->query_safe("SELECT pglock.release_slot($key, 1), pglock.release_slot($key, 2)"), 't|t', '... released');

	my $token = $client->query_safe("SELECT pglock.acquire_lease($key, '1min', holder => 'me')");

	is($other->query_safe("SELECT pglock.try_lease($key) IS NULL, pglock.acquire_lease($key, timeout => '10ms') IS NULL"),
		't|t', '... a lease excludes others');
	is($other->query_safe("SELECT pglock.renew_lease($key, $token), pglock.holds_lease($key, $token), pglock.holds_lease($key, 1)"),
		't|t|f', '... any session renews it');
	is($other->query_safe('SELECT holder, ttl, server = pglock.server_of(key, 4) FROM pglock.leases'), 'me|00:01:00|t', '... it is shown');
	is($other->query_safe("SELECT pglock.release_lease($key, $token), pglock.release_lease($key, $token)"), 't|f', '... and released');
	$token = $client->query_safe("CALL pglock.lease($key)");
	is($client->query_safe("SELECT pglock.revoke_lease($key), pglock.renew_lease($key, $token)"), '1|f', '... or revoked');
}
is($client->query_safe(<<'END'), '20|t', 'leases of all servers are renewed at once');
SELECT array_agg('l' || i) AS keys, array_agg(pglock.acquire_lease('l' || i)) AS tokens FROM generate_series(1, 20) i \gset
SELECT count(*), bool_and((key, token) IN (SELECT * FROM unnest(:'keys'::text[], :'tokens'::bigint[])))
FROM pglock.renew_leases(:'keys', :'tokens', '1h');
END
is($client->query_safe(<<'END'), '19', '... and those that are lost are told');
\set QUIET on
SELECT pglock.revoke_lease('l7') \g /dev/null
SELECT count(*) FROM pglock.renew_leases(:'keys', :'tokens');
END
ask('SELECT sum(pglock.revoke_lease(key)) FROM pglock.leases');

# direct clients of the right server and those of the proxy exclude each other
my $direct = session($servers[ server_of('direct') ]);

is($direct->query_safe("SELECT pglock.acquire('direct')"), 't', 'a direct client of the server takes a lock');
is($client->query_safe("SELECT pglock.try('direct')"), 'f', '... which excludes those of the proxy');
start_waiting($client, "CALL pglock.lock('direct')");
wait_for_waiter($servers[ server_of('direct') ], 'direct');
$direct->query_safe("SELECT pglock.release('direct')");
is(finish_waiting($client), '00000', '... until it is released');
$client->query_safe('SELECT pglock.release_all()');
$direct->quit;

my ($a, $same, $b) = (key_of(1, 'a'), key_of(1, 'b'), key_of(2, 'a'));

# all or none, whatever the servers
is($client->query_safe("SELECT pglock.acquire_all('{$b, $a, $same, $a}'), pglock.release_all('{$a, $same, $b}')"),
	't|3', 'acquire_all() takes locks of several servers');
is($client->query_safe("SELECT pglock.acquire_all('{}')"), 't', '... or none');
$client->query_safe("SELECT pglock.acquire('$a')");
$other->query_safe("SELECT pglock.acquire('$b')");
is($client->query_safe("SELECT pglock.acquire_all('{$b, $a, $same}', '50ms')"), 'f', '... and gives them back if one is not to be had');
is($client->query_safe("SELECT pglock.held('$a'), pglock.held('$same')"), 't|f', '... all but what it had before');
my (undef, $cancelled) = call_on($client, "SET statement_timeout = '500ms'; SELECT pglock.acquire_all('{$b, $same}')");
like($cancelled, qr/statement timeout/, '... or if it is cancelled');
is($client->query_safe("RESET statement_timeout; SELECT pglock.held('$a'), pglock.held('$same')"), 't|f', '... likewise');
is($client->query_safe('SELECT pglock.release_all()'), '1', '... nothing else is held');
$other->query_safe('SELECT pglock.release_all()');

#
# What is refused
#

is_refused(@$_)
  foreach (
	[ "SELECT pglock.acquire('k', scope => 'transaction')", '0A000', 'locks at transaction scope are not possible' ],
	[ "SELECT pglock.try('k', scope => 'transaction')", '0A000', 'locks at transaction scope are not possible' ],
	[ "CALL pglock.lock('k', scope => 'transaction')", '0A000', 'locks at transaction scope are not possible' ],
	[ "SELECT pglock.acquire_slot(7, 2, scope => 'transaction')", '0A000', 'locks at transaction scope are not possible' ],
	[ "SELECT pglock.try_slot(7, 2, scope => 'transaction')", '0A000', 'locks at transaction scope are not possible' ],
	[ "SELECT pglock.acquire('k', scope => 'statement')", '22023', 'invalid scope' ],
	[ "SELECT pglock.acquire('k', scope => NULL)", '22004', 'scope must not be null' ],
	[ 'SELECT pglock.acquire(NULL::bigint)', '22004', 'key must not be null' ],
	[ 'SELECT pglock.acquire_lease(NULL)', '22004', 'key must not be null' ],
	[ "SELECT pglock.acquire('k', '-1s')", '22023', '.*invalid timeout' ],
	[ "SELECT pglock.acquire_all('{k}', scope => 'transaction')", '0A000', 'locks at transaction scope are not possible' ],
	[ 'SELECT pglock.acquire_all(NULL)', '22004', 'keys must not be null' ],
	[ "SELECT pglock.acquire_all('{k, NULL}')", '22004', 'key must not be null' ],
	[ "SELECT pglock.check_lease('k', 1)", '0A000', 'check_lease is not possible' ],
	[ 'SELECT pglock.renew_leases(ARRAY[1::bigint])', '0A000', 'leases cannot be renewed .* without their keys' ],
	[ 'SELECT pglock.acquire_raw(42)', '42883', 'function pglock.acquire_raw' ],
	[ "SELECT pglock.token('k')", '55000', '.*not held' ]);
is($client->query_safe("SELECT pglock.acquire('k')"), 't', 'a client holds a lock');
is_refused("CALL pglock.lock('k', '10ms')", '55P03', 'could not acquire lock "k" in time');
is($client->query_safe('SELECT pglock.release_all()'), '1', '... and has it still');
nothing_is_held('refused');

#
# What is not undone
#

is($client->query_safe("BEGIN; SAVEPOINT s; SELECT pglock.try('kept'); ROLLBACK TO s; ROLLBACK; SELECT pglock.held('kept')"),
	"t\nt", 'a lock outlives rollbacks');
my (undef, $messages) = call_on($client, "SELECT pglock.acquire('$a'), 1 / (0 * pg_backend_pid())");
like($messages, qr/division by zero/, 'a statement fails that has taken a lock');
is($client->query_safe("SELECT pglock.held('$a')"), 't', '... which is held');
$client->query_safe('DISCARD ALL');
is($client->query_safe("SELECT pglock.held('$a')"), 't', '... after DISCARD ALL, too');
is($client->query_safe("SELECT pglock.release_all()"), '2', '... until it is released');

my $token = $client->query_safe("BEGIN; SELECT pglock.acquire_lease('$a'); ROLLBACK");
is($client->query_safe("SELECT pglock.release_lease('$a', $token)"), 't', 'a lease outlives a rollback, too');

#
# How locks are lost
#

# an error on the server
is($client->query_safe("SELECT pglock.acquire('$a'), pglock.acquire('$b')"), 't|t', 'a client holds locks of two servers');
(undef, $messages) = call_on($client, "SELECT pglock.acquire('$same', '-1s')");
like($messages, qr/REMOTE ERROR/, '... a call fails on the first');
my $answer;
($answer, $messages) = call_on($client, "SELECT pglock.held('$a'), pglock.held('$b')");
is($answer, 'f|t', '... the next one ends the session there, and its locks; others stay');
like($messages, qr/NOTICE:.*dropping stale conn/, '... and says so');
is((call_on($client, "SELECT pglock.release('$a'), pglock.release_all()"))[0], 'f|1', '... release() tells it, too');

# the session on the server ends
foreach my $idle (0, 3)
{
	my $end = "SELECT pg_terminate_backend(pid) FROM pglock.locks WHERE key = '$a'";

	is($client->query_safe("SELECT pglock.acquire('$a')"), 't', 'a client holds a lock');
	is($servers[1]->safe_psql('postgres', $end), 't', "... and loses its session there, $idle s before the next call");
	is_soon_there($a, 'SELECT count(*) FROM pglock.locks', '0', '... so it is free');
	# no order is made by this: PL/Proxy looks at a connection only if it has been idle for two seconds
	sleep $idle;
	($answer, $messages) = call_on($client, "SELECT pglock.held('$a')");
	if ($idle == 0)
	{
		like($messages, qr/ERROR:/, '... one call fails');
		($answer) = call_on($client, "SELECT pglock.held('$a')");
	}
	else
	{
		like($messages, qr/WARNING:.*unstable connection/, '... PL/Proxy only warns');
	}
	is($answer, 'f', '... held() tells that the lock is lost');
}

# changes of the catalogs, of which a session that waits misses some: PL/Proxy would drop the connections of a cluster
ask(<<"END");
CREATE SERVER control FOREIGN DATA WRAPPER plproxy OPTIONS (p0 '@{[ $servers[1]->connstr('postgres') =~ s/'/''/gr ]}');
CREATE USER MAPPING FOR PUBLIC SERVER control;
CREATE FUNCTION control_acquire(key text) RETURNS boolean LANGUAGE plproxy AS 'CLUSTER ''control''; RUN ON 0; SELECT pglock.acquire(key);';
CREATE FUNCTION control_held(key text) RETURNS boolean LANGUAGE plproxy AS 'CLUSTER ''control''; RUN ON 0; SELECT pglock.held(key);';
END
my $blocker = session($servers[1]);

$blocker->query_safe("SELECT pglock.acquire('$same')");
is($client->query_safe("SELECT pglock.acquire('$a'), control_acquire('control')"), 't|t', 'a client holds a lock');
start_waiting($client, "SELECT pglock.acquire('$same', '1h')");
wait_for_waiter($servers[1], $same);
ask("DO 'BEGIN FOR i IN 1..1000 LOOP EXECUTE ''CREATE TEMP TABLE t'' || i || ''(a text)''; END LOOP; END'");
$blocker->query_safe("SELECT pglock.release('$same')");
is(finish_waiting($client), '00000', '... and waits for another while much changes');
is($client->query_safe("SELECT pglock.held('$a'), pglock.held('$same')"), 't|t', '... it holds both');
is($client->query_safe("SELECT control_held('control')"), 'f', '... control: that of a named cluster is lost');
$client->query_safe('SELECT pglock.release_all()');

# any role may use them, and each has other sessions
foreach ($proxy, @servers)
{
	$_->safe_psql('postgres', 'CREATE ROLE app LOGIN');
}
is($client->query_safe("SELECT pglock.acquire('$a'); SET ROLE app; SELECT pglock.held('$a'), pglock.try('$a'), pglock.try('$b')"),
	"t\nf|f|t", 'after SET ROLE a client has other sessions');
is($client->query_safe("SELECT key FROM pglock.locks WHERE usename = 'app'"), $b, '... which the view shows');
is($client->query_safe("SELECT pglock.release_lease('$a', pglock.try_lease('$a')), pglock.release_all()"), 't|1', '... with leases');
like((call_on($client, 'UPDATE pglock.servers SET connection = NULL'))[1], qr/permission denied/, '... it cannot change the servers');
is($client->query_safe("RESET ROLE; SELECT pglock.release('$a')"), 't', '... the first has what it had');

#
# Deadlocks, cancels, and clients that are gone
#

ask("UPDATE pglock.servers SET connection = connection || \$\$ options='-c lock_timeout=3s'\$\$");
$client->query_safe("SELECT pglock.acquire('$a')");
$other->query_safe("SELECT pglock.acquire('$b')");
start_waiting($client, "SELECT pglock.acquire('$b', '1h')");
wait_for_waiter($servers[2], $b);
start_waiting($other, "SELECT pglock.acquire('$a', '1h')");
is(finish_waiting($client), '55P03', 'a deadlock over servers is ended by lock_timeout');
is((call_on($client, 'SELECT pglock.release_all()'))[0], '1', '... and by release_all() after the error');
like(finish_waiting($other), qr/00000|55P03/, '... the other gets its lock, unless its time has come, too');
call_on($other, 'SELECT pglock.release_all()');

$blocker->query_safe("SELECT pglock.acquire('$a')");
$client->query_safe("SELECT pglock.acquire('$same')");
start_waiting($client, "SET statement_timeout = '500ms'; SELECT pglock.acquire('$a', '1h')");
is(finish_waiting($client), '57014', 'statement_timeout ends a wait');
is_soon_there($a, 'SELECT count(*) FROM pglock.locks WHERE NOT granted', '0', '... on the server, too');
is((call_on($client, "RESET statement_timeout; SELECT pglock.held('$same')"))[0], 't', '... the session there goes on, with its locks');
call_on($client, 'SELECT pglock.release_all()');

start_waiting($other, "SELECT pglock.acquire('$b'), pglock.acquire('$a', '1h')");
wait_for_waiter($servers[1], $a);
$other->{run}->kill_kill;
is_soon_there($b, 'SELECT count(*) FROM pglock.locks', '0', 'a client is killed that waits: what it holds is free');
is_soon_there($a, 'SELECT count(*) FROM pglock.locks WHERE NOT granted', '0', '... and it waits no longer');
end_session($other);
$blocker->quit;

# connections are made when they are used
$other = session($proxy);
$other->query_safe("SELECT pglock.acquire('$a'), pglock.acquire('$b'), pglock.acquire('$same')");
is(join(',', map { $_->safe_psql('postgres', "SELECT count(*) FROM pglock.locks l") } @servers),
	'0,2,1,0', 'a client holds locks of two servers');
$other->quit;
nothing_is_held('the client has gone');

# a server that is gone
$client->query_safe("SELECT pglock.acquire('$a')");
$servers[2]->stop;
is_refused('SELECT * FROM pglock.locks', '\w+', '.*');

# ... stops nothing from being released on those after it
my $c = key_of(3, 'a');

$client->query_safe("SELECT pglock.acquire('$c')");
foreach ([ 'release_all()', 2 ], [ "release_all('{$b, $c}')", 1 ])
{
	my ($call, $levels) = @$_;

	$client->query_safe("SELECT pglock.release_all('{$a, $c}'), pglock.acquire('$a'), pglock.acquire('$c')");
	(undef, $messages) = call_on($client, "SELECT pglock.$call");
	like($messages, qr/ERROR:.*DETAIL:  Nothing was released on server 2\. On the others, $levels levels were/s, "$call fails");
	is($servers[3]->safe_psql('postgres', 'SELECT count(*) FROM pglock.locks'), '0', '... when all that is there has been released');
}
is(ask('SELECT server FROM pglock.locks WHERE server <> 2'), '1', 'the view can leave out a server that is gone');
is_refused("SELECT pglock.try('$b')", '\w+', '.*');
is($client->query_safe("SELECT pglock.held('$a'), pglock.release('$a')"), 't|t', '... keys of the others are as they were');
$servers[2]->start;
is(ask("SELECT pglock.try('$b')"), 't', '... and it is asked again when it is back');

my $first = key_of(0, 'a');

$direct = session($servers[3]);
$direct->query_safe("SELECT pglock.acquire('$c')");
start_waiting($client, "SELECT pglock.acquire_all('{$first, $a, $c}')");
wait_for_waiter($servers[3], $c);
$servers[0]->stop;
ask("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%acquire_all%' AND pid <> pg_backend_pid()");
is(finish_waiting($client), '57014', 'acquire_all() is cancelled while a server is gone');
is($servers[1]->safe_psql('postgres', "SELECT count(*) FROM pglock.locks WHERE key = '$a'"), '0', '... and gives back what it has on the others');
$direct->quit;
$servers[0]->start;

$client->quit;

#
# Nobody's functions and operators run instead of those of the catalog
#

ask('CREATE DATABASE shop');
ask('CREATE ROLE eve');

sub shop { return $proxy->psql('shop', $_[0]); }

shop('GRANT CREATE ON SCHEMA public TO eve');
foreach my $trap ([ '||', 'text', 'xid' ], [ '<>', 'text[]', 'text[]' ], [ '||', 'text[]', 'text[]' ], [ '/', 'bigint', 'numeric' ])
{
	my ($operator, @types) = @$trap;

	shop(sprintf <<'END', @types, $operator, @types);
SET ROLE eve;
CREATE FUNCTION public.trap(%s, %s) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE ''a trap''; END';
CREATE OPERATOR public.%s (FUNCTION = public.trap, LEFTARG = %s, RIGHTARG = %s);
END
}
shop(<<'END');
SET ROLE eve;
CREATE FUNCTION public.concat_ws(text, text, text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE ''a trap''; END';
END
like((shop("SELECT '{}'::text[] <> '{}'::text[]"))[2], qr/a trap/, 'control: a superuser runs the operator of another role');
is((shop('SET client_min_messages = warning; CREATE EXTENSION postgres_lock_proxy CASCADE'))[2], '', '... the script does not');
add_servers($proxy, 0, 'joining', @servers, 'shop');
is((shop('CALL pglock.join_servers()'))[2], '', '... nor do servers that join');
is((shop("SELECT pglock.acquire_all('{$a, $b, $c}', '1min'), pglock.release_all('{$a, $b}'), pglock.release_all()"))[1],
	't|2|1', '... nor do locks');
is( ask("SELECT string_agg(p.oid::regprocedure::text, ' ' ORDER BY proname) FROM pg_proc p JOIN pg_language l ON l.oid = prolang
		WHERE pronamespace = 'pglock'::regnamespace AND lanname = 'plpgsql' AND proconfig IS NULL"),
	'pglock.join_servers(boolean) pglock.settle_servers()', 'functions have a search_path of their own, unless they COMMIT');

# a dump of servers that have joined can be restored
ask('CREATE DATABASE restored');
system(sprintf 'pg_dump -d "%s" | psql -qX -d "%s" >/dev/null', map { $proxy->connstr($_) } 'shop', 'restored');
is($proxy->safe_psql('restored', 'SELECT count(*), min(state) FROM pglock.servers'), '4|joined', 'servers are restored from a dump');

stop_and_check_log($_) foreach $proxy, @servers;
done_testing();
