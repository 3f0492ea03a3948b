# Random messages of the extended protocol from several clients, struck by cancels and ends of sessions: portals
# in portions, pipelines, savepoints, cursors, temporary tables, commits that fail, and what goes round the books.
# After each round each session holds what its client can tell from the answers, and its own books, the view
# of another session and pg_locks agree.
#
# PGLOCK_FUZZ_SEED repeats the messages of a run (not when they are struck). PGLOCK_FUZZ_SECONDS says how long
# it runs.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use ProtocolClient;
use Protocol;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use constant CLIENTS => 4;

my $seconds = $ENV{PGLOCK_FUZZ_SECONDS} // 15;
my $seed = $ENV{PGLOCK_FUZZ_SEED} // time ^ $$;
my $node = new_server('protocol', conf => <<'END');
shared_preload_libraries = postgres_lock
deadlock_timeout = 20ms
fsync = off
log_min_messages = log
log_min_error_statement = panic
max_prepared_transactions = 10
END

srand $seed;
diag("seed $seed");

$node->safe_psql('postgres', <<'END');
CREATE TABLE deferred (i integer UNIQUE DEFERRABLE INITIALLY DEFERRED);
INSERT INTO deferred VALUES (1);
CREATE FUNCTION take_late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pglock.acquire('loose1', '5ms');
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON deferred DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION take_late();
END

my $observer = Protocol->new($node);
my %name_of = map { split /\|/ } split /\n/,
  $observer->ask('SELECT pglock.lock_id(key), key FROM unnest(ARRAY[' . join(', ', map { "'$_'" } ProtocolClient::all_keys(CLIENTS)) . ']) key');
my %seen;    # how often what has happened
my @clients = map { ProtocolClient->new($node, $_, \%seen) } 1 .. CLIENTS;

# Lets the clients send what they will, strikes at some, and waits until the server has answered all.
sub play_round
{
	$_->begin_round foreach @clients;
	until (!grep { !$_->is_done } @clients)
	{
		foreach my $client (@clients)
		{
			next if $client->is_done;
			if (rand() < 0.01)
			{
				$client->end;
				$seen{end}++;
			}
			elsif ($client->is_late || rand() < 0.1)
			{
				$client->cancel;
				$seen{cancel}++;
			}
			$client->take_answers(0.001);
		}
	}
	return;
}

# What is wrong after a round, in words; nothing if all is well.
sub find_faults
{
	my @faults;

	# who was ended may still give back what it held
	foreach my $i (grep { $clients[$_]->has_ended } 0 .. $#clients)
	{
		$node->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ' . $clients[$i]->pid . ')')
		  or return 'session ' . $clients[$i]->pid . ' does not end';
		$clients[$i] = ProtocolClient->new($node, $i + 1, \%seen);
	}

	my $differences = $observer->ask(<<'END');
WITH view AS (SELECT pid, lock_id, mode, granted FROM pglock.locks),
	truth AS (SELECT pid, classid::bigint << 32 | objid::bigint, CASE mode WHEN 'ShareLock' THEN 'shared' ELSE 'exclusive' END, granted
		FROM pg_locks WHERE locktype = 'advisory')
SELECT 'only in the view', view.* FROM (SELECT DISTINCT * FROM view EXCEPT SELECT * FROM truth) view
UNION ALL SELECT 'only in pg_locks', truth.* FROM (SELECT * FROM truth EXCEPT SELECT * FROM view) truth
END
	push @faults, $differences if $differences ne '';

	my $wrong = $observer->ask('SELECT pid, key, lock_id FROM pglock.locks WHERE lock_id <> pglock.lock_id(key)');

	push @faults, "not the key of the id: $wrong" if $wrong ne '';

	my %held;

	foreach (split /\n/, $observer->ask("SELECT pid, classid::bigint << 32 | objid::bigint, mode FROM pg_locks WHERE locktype = 'advisory'"))
	{
		my ($pid, $id, $mode) = split /\|/;

		$held{$pid}{ $name_of{$id} // "id $id" }{ $mode eq 'ShareLock' ? 'shared' : 'exclusive' } = 1;
	}
	foreach my $client (@clients)
	{
		my $pid = $client->pid;

		push @faults, map { "$pid: $_" } $client->compare_locks($held{$pid} // {});
		next unless $client->can_ask;
		$seen{'books compared'}++;

		my $books = $client->own_books;
		my $view = $observer->ask("SELECT lock_id, mode, scope, depth FROM pglock.locks WHERE pid = $pid AND depth IS NOT NULL ORDER BY 1, 2, 3");

		push @faults, map { "$pid: $_" } $client->compare_books($books, \%name_of);
		push @faults, "$pid: others see\n$view\nits own books say\n$books" if $view ne $books;
	}
	return @faults;
}

# What a run must meet to have tried anything; on a slow machine that takes its time.
my @wanted = ('taken', 'not taken', 'given back', 'undone', 'suspended', 'error at Sync', 'books compared', 'cancel', 'end');
my $begun_at = time;
my ($rounds, @faults) = (0);

while (!@faults && (time < $begun_at + $seconds || (grep { !$seen{$_} } @wanted) && time < $begun_at + 10 * $seconds))
{
	$rounds++;
	play_round();
	@faults = find_faults();
	if (@faults)
	{
		diag("round $rounds: $_") foreach @faults;
		foreach my $client (@clients)
		{
			my $pid = $client->pid;

			diag($client->story) if grep { /\b$pid\b/ } @faults;
		}
	}
}
is(scalar @faults, 0, "seed $seed: the server holds what the clients know, and the books agree");
note("$rounds rounds; " . join ', ', map { "$seen{$_} $_" } sort keys %seen);
ok($seen{$_}, "$_ has been met") foreach @wanted;

undef @clients;
$observer->ask("ROLLBACK PREPARED '$_'") foreach split /\n/, $observer->ask('SELECT gid FROM pg_prepared_xacts');
ok( $node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory'"),
	'when all have ended nothing is held');
stop_and_check_log($node);
done_testing();
