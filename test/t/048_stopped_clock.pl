# Messages of a client that come within one tick of the server's clock are still messages of their own, and so are the
# portals made in it. The clock stands still, so that all do.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use Protocol;
use Test::More;
use WallClock;

my $clock = WallClock->new;
my $node = $clock->with(sub { new_server('stopped_clock', conf => "shared_preload_libraries = 'postgres_lock'") });
my $client = Protocol->new($node);
my $others = Protocol->new($node);

$others->ask('CREATE TABLE taken (key text)');
$others->ask(<<'END');
CREATE FUNCTION take() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pglock.acquire(NEW.key); PERFORM 1 / (NEW.key <> 'failed')::int; RETURN NULL; END $$
END
$others->ask('CREATE CONSTRAINT TRIGGER take AFTER INSERT ON taken DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION take()');

# What the client holds, as others see it, after it has sent what was gathered.
sub is_held
{
	my ($held, $name) = @_;

	$client->finish;
	is($others->ask("SELECT coalesce(string_agg(key || depth, ' ' ORDER BY key), '') FROM pglock.locks WHERE pid = $client->{pid}"), $held, $name);
	$client->ask('ROLLBACK');
	$client->ask('SELECT pglock.release_all()');
	return;
}

sub bind_and_execute
{
	my ($portal, $sql, $rows) = @_;

	return $client->parse('', $sql)->bind($portal, '')->execute($portal, $rows // 0);
}

my $three = "SELECT pglock.try(prefix || i) FROM generate_series(1, 3) i, (VALUES ('%s')) v(prefix)";

$clock->stop;

bind_and_execute('p', sprintf($three, 'a'), 1);
bind_and_execute('', "SELECT pglock.try('complete')");
$client->execute('p', 1)->execute('', 1)->execute('p', 1);
bind_and_execute('', 'SELECT 1 / 0')->sync;
is_held("complete1", 'a portal fetched in portions loses all of them when its transaction fails');

bind_and_execute('', 'BEGIN');
bind_and_execute('p', sprintf($three, 'a'), 2)->close_portal('p');
bind_and_execute('p', sprintf($three, 'b'), 2);
bind_and_execute('', 'SELECT 1 / 0')->sync;
is_held('a11 a21', '... and not those of an earlier portal of its name, which was closed');

$client->query("SELECT pglock.try('string')")->query("SELECT pglock.try('failed'), 1 / 0");
is_held('string1', 'a string that fails loses its own, not those of the string before');

bind_and_execute('', "INSERT INTO taken VALUES ('deferred')")->sync;
bind_and_execute('', "INSERT INTO taken VALUES ('failed')")->sync;
is_held('deferred1', 'a commit that fails loses its own, not those of the commit before');

$clock->set(0);
undef $client;
undef $others;
stop_and_check_log($node);
done_testing();
