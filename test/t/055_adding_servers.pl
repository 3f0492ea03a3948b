# Servers are added behind PL/Proxy while clients take locks, which has half of the keys move: no key ever has two
# holders, and its tokens only grow. Controls show that it has two if the clients are just told of the new servers.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Proxy;
use Test::More;

plan(skip_all => 'this PostgreSQL has no PL/Proxy') unless has_plproxy();

use constant { CLIENTS => 8, KEYS => 12, MOST_CONTROLS => 20 };

my @servers = start_servers(4);
my $proxy = start_proxy();

sub ask { return $proxy->safe_psql('postgres', $_[0]); }

add_servers($proxy, 0, 'joining', @servers[ 0, 1 ]);
ask('CALL pglock.join_servers()');

#
# A race
#

# What the holder of a key does is judged by an advisory lock of the proxy, which no client waits for.
ask(<<'END');
CREATE TABLE work (number bigserial, round int, key int, token bigint, is_alone boolean);
CREATE TABLE rounds (round int);
CREATE PROCEDURE work(this int, keys int) LANGUAGE plpgsql AS $$
DECLARE
	key int;
	is_alone boolean;
BEGIN
	WHILE NOT EXISTS (SELECT FROM rounds WHERE round = this) LOOP
		key := 1 + floor(random() * keys);
		IF pglock.acquire(key, '1s') THEN
			is_alone := pg_try_advisory_lock(key);
			INSERT INTO work (round, key, token, is_alone) VALUES (this, key, pglock.token(key), is_alone);
			PERFORM pg_sleep(0.005);
			IF is_alone THEN
				PERFORM pg_advisory_unlock(key);
			END IF;
			PERFORM pglock.release(key);
		END IF;
		COMMIT;
	END LOOP;
END $$;
END

my $round = 0;

sub start_round
{
	$round++;
	my @clients = map { session($proxy) } 1 .. CLIENTS;

	start_waiting($_, "CALL work($round, ${\ KEYS})") foreach @clients;
	busy();
	return @clients;
}

# Returns when the clients have done more work.
sub busy
{
	my $done = ask('SELECT count(*) FROM work');

	$proxy->poll_query_until('postgres', "SELECT count(*) > $done + 5 * ${\ CLIENTS} FROM work") or die 'nobody works';
	return;
}

# Returns how the clients have ended.
sub end_round
{
	my @clients = @_;

	ask("INSERT INTO rounds VALUES ($round)");

	my @ends = map { finish_waiting($_) } @clients;

	end_session(@clients);
	return join ',', @ends;
}

# How often a holder in that round was not alone.
sub overlaps { return ask("SELECT count(*) FROM work WHERE round = $round AND NOT is_alone"); }

my $moving = ask("SELECT array_agg(i) FROM generate_series(1, ${\ KEYS}) i WHERE pglock.server_of(i::text, 2) <> pglock.server_of(i::text, 4)");
like($moving, qr/,/, "keys that move: $moving");

foreach my $added ([ 2, 3 ], [2], [ 2, 3 ])
{
	my @clients = start_round();

	add_servers($proxy, 2, 'joining', @servers[@$added]);
	busy();
	ask('CALL pglock.join_servers()');
	busy();
	is(end_round(@clients), join(',', ('00000') x CLIENTS), "round $round: the clients end well");
	is(ask('SELECT min(state), count(*) FROM pglock.servers'), 'joined|' . (2 + @$added), '... all servers have joined');
	is(overlaps(), '0', '... and no key has had two holders');
	is( ask("SELECT count(*) FROM (SELECT token - lag(token) OVER (PARTITION BY key ORDER BY number) AS step FROM work WHERE round = $round) steps
			WHERE step <= 0"), '0', '... its tokens grow');
	remove_servers($proxy, 2);
}

# The controls: the clients change over as they are. What they hold then is left to their sessions.
foreach (1 .. MOST_CONTROLS)
{
	my @clients = start_round();

	ask('ALTER TABLE pglock.servers DISABLE TRIGGER keep_number');
	add_servers($proxy, 2, 'joined', @servers[ 2, 3 ]);
	ask('ALTER TABLE pglock.servers ENABLE TRIGGER keep_number');
	busy();
	end_round(@clients);
	remove_servers($proxy, 2);
	last if overlaps() > 0;
}
cmp_ok(overlaps(), '>', 0, 'control: keys have two holders if nobody waits for the old ones');

#
# What join_servers() waits for
#

my ($key) = $moving =~ /(\d+)/;
my ($holder, $waiter, $reader, $operator) = map { session($proxy) } 1 .. 4;
my $old = $servers[ ask("SELECT pglock.server_of('$key', 2)") ];
my $new = $servers[ ask("SELECT pglock.server_of('$key', 4)") ];

# Until the condition, asked of the server, is true.
sub await
{
	my ($node, $condition, $name) = @_;

	ok($node->poll_query_until('postgres', "SELECT $condition"), $name);
	return;
}

sub nobody_joins { return is(ask("SELECT count(*) FROM pglock.servers WHERE state = 'joined'"), '2', "... $_[0]"); }

# join_servers() fails with a message like that.
sub fails_to_join
{
	my ($message, $name) = @_;
	my (undef, undef, $messages) = $proxy->psql('postgres', "\\set VERBOSITY verbose\nCALL pglock.join_servers()");

	like($messages, qr/ERROR:  $message/, $name);
	nobody_joins('none does');
	return;
}

my $join_waits = "count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'CALL pglock.join%' AND wait_event = 'PgSleep'";

$holder->query_safe("SELECT pglock.acquire($key)");
start_waiting($waiter, "SELECT pglock.acquire($key)");
wait_for_waiter($old, $key);
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
add_servers($proxy, 2, 'joining', @servers[ 2, 3 ]);
is(ask("SELECT kind, key FROM pglock.moving"), "lock|$key", 'a lock was taken before: the view moving shows it');
start_waiting($operator, 'CALL pglock.join_servers()');
await($proxy, $join_waits, 'join_servers() waits');
$holder->query_safe("SELECT pglock.release($key)");
is(finish_waiting($waiter), '00000', '... a call that began before gets its lock');
is($old->safe_psql('postgres', "SELECT count(*) FROM pglock.locks WHERE key = '$key'"), '1', '... on the old place');
is($new->safe_psql('postgres', "SELECT count(*) FROM pglock.locks WHERE key = '$key'"), '0', '... alone');
nobody_joins('is waited for while a transaction has its old snapshot');
is($reader->query_safe("SELECT pglock.try($key)"), 'f', '... which goes to the old place');
my $now = $old->safe_psql('postgres', 'SELECT clock_timestamp()');
$reader->query_safe('COMMIT');
await($old, "count(*) > 0 FROM pg_stat_activity WHERE query LIKE '%pglock.locks%' AND query_start > '$now' AND pid <> pg_backend_pid()",
	'... then for the lock that was taken before');
nobody_joins('as it is on one place');
is($waiter->query_safe("SELECT pglock.held($key)"), 'f', '... held() does not trust it');
start_waiting($holder, "SELECT pglock.acquire($key)");
wait_for_waiter($old, $key);
is($waiter->query_safe("SELECT pglock.release($key)"), 't', '... until it is released');
is(finish_waiting($holder), '00000', 'another client gets it');
await($proxy, "min(state) = 'joined' AND max(state) = 'settling' FROM pglock.servers", '... on both places, so the servers settle');
is($holder->query_safe("SELECT pglock.held($key)"), 't', '... it is held all the time');
is($waiter->query_safe("SELECT pglock.try($key)"), 'f', '... and excludes others on the new place');
is($holder->query_safe("SELECT pglock.release($key)"), 't', '... until it is released');
is(finish_waiting($operator), '00000', '... on both, so that the servers have joined');
is(ask("SELECT count(*) FROM pglock.servers WHERE state = 'joined'"), '4', '... all of them');
is($waiter->query_safe("SELECT pglock.try($key), pglock.release($key)"), 't|t', '... others get it there');
is(ask('SELECT count(*) FROM pglock.locks'), '0', '... nothing is left');

# a lock that was taken before, and once more since
remove_servers($proxy, 2);
foreach my $take ('key, shared => false', 'key, shared => true')
{
	foreach my $again ('key, shared => false', 'key, shared => true')
	{
		my ($first, $second) = map { s/key/$key/r } $take, $again;

		$holder->query_safe("SELECT pglock.try($first)");
		add_servers($proxy, 2, 'joining', @servers[ 2, 3 ]);
		is($holder->query_safe("SELECT pglock.try($second)"), 't', "a lock ($first) is taken again ($second), on both places");
		start_waiting($operator, 'CALL pglock.join_servers()');
		await($proxy, $join_waits, '... it is waited for');
		is($holder->query_safe("SELECT pglock.release($key)"), 't', '... one level is released');
		is($waiter->query_safe("SELECT pglock.try($key)"), 'f', '... no other gets it');
		nobody_joins('the other level is waited for');
		is($holder->query_safe("SELECT pglock.release($key)"), 't', '... until it is released, too');
		is(finish_waiting($operator), '00000', '... then the servers join');
		is(ask('SELECT count(*) FROM pglock.locks'), '0', '... nothing is left');
		remove_servers($proxy, 2);
	}
}

# a transaction that saw the servers joining
$holder->query_safe("SELECT pglock.acquire($key)");
add_servers($proxy, 2, 'joining', @servers[ 2, 3 ]);
start_waiting($operator, 'CALL pglock.join_servers()');
await($proxy, $join_waits, 'join_servers() waits for a lock');
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
$holder->query_safe("SELECT pglock.release($key)");
await($proxy, "max(state) = 'settling' FROM pglock.servers", '... the servers settle');
await($proxy, $join_waits, '... and wait');
is($reader->query_safe("SELECT pglock.try($key)"), 't', '... for a transaction that takes a lock on both places');
nobody_joins('is waited for');
$reader->query_safe('COMMIT');
await($proxy, $join_waits, '... then for its lock');
is($reader->query_safe("SELECT pglock.release($key)"), 't', '... until it is released');
is(finish_waiting($operator), '00000', '... the servers join');
is(ask('SELECT count(*) FROM pglock.locks'), '0', '... nothing is left');
remove_servers($proxy, 2);

# a transaction that saw more servers joining, and so another place
add_servers($proxy, 2, 'joining', @servers[ 2, 3 ]);
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
ask('DELETE FROM pglock.servers WHERE server = 3');
start_waiting($operator, 'CALL pglock.join_servers()');
await($proxy, $join_waits, 'join_servers() waits for a transaction that saw one more');
is(ask('SELECT max(state) FROM pglock.servers'), 'joining', '... before the servers settle');
$reader->query_safe('COMMIT');
is(finish_waiting($operator), '00000', '... until it ends');
remove_servers($proxy, 2);

# leases and slots
my $token = $holder->query_safe("SELECT pglock.acquire_lease($key, '1h')");

$holder->query_safe("SELECT pglock.acquire_slot($key, 2)");
add_servers($proxy, 2, 'joining', @servers[ 2, 3 ]);
is(ask('SELECT kind, key FROM pglock.moving ORDER BY kind'), "lease|$key\nslot|$key", 'a lease and a slot are in the view');
start_waiting($operator, 'CALL pglock.join_servers()');
await($proxy, $join_waits, 'join_servers() waits for them');
foreach my $call ("pglock.try_lease($key)", "pglock.acquire_lease($key)", "pglock.acquire_slot($key, 3)", "pglock.try_slot($key, 3)",
	"pglock.acquire_all('{$key}')")
{
	my (undef, $messages) = call_on($waiter, "\\set VERBOSITY verbose\nSELECT $call");

	like($messages, qr/ERROR:  55006: key "$key" is moving/, "$call is refused meanwhile");
}
is($waiter->query_safe("SELECT pglock.renew_lease($key, $token), pglock.holds_lease($key, $token)"), 't|t', '... the lease can be renewed');
nobody_joins('and goes on');
is($holder->query_safe("SELECT pglock.release_lease($key, $token), pglock.release_all()"), 't|1', '... until both are released');
is(finish_waiting($operator), '00000', '... then the servers join');
is($waiter->query_safe("SELECT pglock.try_lease($key) > $token"), 't', '... and the new one has greater tokens');

# once more, and for several proxies
ask('CALL pglock.join_servers()');
remove_servers($proxy, 2);
ask("SELECT pglock.revoke_lease($key)");
add_servers($proxy, 2, 'joining', $servers[2]);
ask('CALL pglock.join_servers(finish => false)');
nobody_joins('finish => false has none join');

# tokens that are behind
$servers[0]->safe_psql('postgres', "SELECT setval('pglock.tokens', (extract(epoch FROM now() + '1 hour') * 1e6)::bigint)");
fails_to_join(qr/55000: the tokens of server 2 are \d+\.\d s behind/, 'a server whose tokens are behind does not join');

my $direct = session($servers[0]);

$direct->query_safe("SELECT pglock.acquire('pglock.join_servers')");
fails_to_join(qr/55000: the tokens of server 2 are \d+\.\d s behind/, '... whatever locks others hold');
$direct->quit;
ask("CREATE OR REPLACE FUNCTION pglock.drawn_at(server integer, key text) RETURNS bigint LANGUAGE sql AS 'SELECT NULL::bigint'");
fails_to_join(qr/55P03: could not draw a token of server 0/, '... and none joins without a token');

$_->quit foreach $holder, $waiter, $reader, $operator;
stop_and_check_log($_) foreach $proxy, @servers;
done_testing();
