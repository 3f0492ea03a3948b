# Every driver takes and releases locks by its recipe, in every way that docs/drivers.md speaks of. The other side is
# psql. At the end there is a table of drivers and what each of them was seen to do.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Drivers;
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes 'time';

my $node = new_driver_server('drivers');

$node->safe_psql('postgres', 'CREATE TABLE written (key text); CREATE TABLE orders (id int, state text)');

my %workers = start_workers();
my $other = delete $workers{psql};
my $observer = start_worker('psql');
my $uuid = 'b7e1a0c4-5a0e-4f3e-9d6a-0123456789ab';

ok($observer->is_ready, 'so is the one who looks on');

# Each is given the worker, a key of its own, and whether the driver behaves otherwise in this.
my @behaviours = (
	example => sub {
		my ($worker) = @_;

		$observer->run("WITH old AS (DELETE FROM orders) INSERT INTO orders VALUES (42, 'new') RETURNING 'new'");
		$other->take('order:42');
		$worker->send_command('example');
		$worker->wait_until_waiting($observer);
		is($observer->run('SELECT state FROM orders'), 'new', 'the example waits for the lock');
		$other->leave;
		is($worker->answer, 'done', '... and ends');
		is($observer->run('SELECT state FROM orders'), 'paid', '... when it has done its work');
		is(holders('order:42'), '', '... and released the lock');
	},
	block => sub {
		my ($worker, $key) = @_;

		is($other->take($key), 'held', 'another holds the lock');
		$worker->start_taking($key);
		$worker->wait_until_waiting($observer);
		is($other->leave, 'released', '... until it has released it');
		is($worker->answer, 'held', 'then the driver holds it');
		is(holders($key), $worker->session, '... and nobody else');
		# or idle_in_transaction_session_timeout would end it
		is(activity($worker, 'state'), 'idle', '... and is in no transaction')
		  unless driver($worker->name)->{transaction_only};
		is($worker->leave, 'released', '... until its block ends');
		is(holders($key), '', '... and no longer');
		is(activity($worker, 'state'), 'idle', '... and is in none then');
	},
	try => sub {
		my ($worker, $key) = @_;

		$other->take($key);
		is($worker->take($key, timeout => 0), "error\t55P03", 'refused while another holds it');
		$other->leave;
		is($worker->take($key, timeout => 0), 'held', 'and not when nobody does');
		$worker->leave;
	},
	timeout => sub {
		my ($worker, $key) = @_;
		my $begun = time;

		$other->take($key);
		is($worker->take($key, timeout => 100), "error\t55P03", 'refused after the timeout');
		cmp_ok(time - $begun, '>=', 0.1, '... and not before');
		$worker->start_taking($key, timeout => 3_600_000);
		$worker->wait_until_waiting($observer);
		$other->leave;
		is($worker->answer, 'held', 'held if it is free in time');
		$worker->leave;
	},
	shared => sub {
		my ($worker, $key) = @_;

		$other->take($key, mode => 'shared');
		is($worker->take($key, mode => 'shared', timeout => 0), 'held', 'held beside another shared hold');
		$other->leave;
		is($other->take($key, timeout => 0), "error\t55P03", '... but not beside an exclusive one');
		is($worker->leave, 'released', '... and released');
		is(holders($key), '', '... wholly');
	},
	nested => sub {
		my ($worker, $key, $otherwise) = @_;

		$worker->take($key);
		if ($otherwise)
		{
			is($worker->take($key), "error\tdeadlock", 'refused in an inner block');
		}
		else
		{
			is($worker->take($key), 'held', 'held once more in an inner block');
			is($worker->leave, 'released', '... which ends');
		}
		is(holders($key), $worker->session, '... while the outer block holds the lock');
		$worker->leave;
		is(holders($key), '', '... until that ends');
	},
	transaction => sub {
		my ($worker, $key) = @_;

		$worker->ask('transaction');
		is($worker->take($key, scope => 'transaction'), 'held', 'held in a transaction');
		is($other->take($key, timeout => 0), "error\t55P03", '... and by nobody else');
		is($worker->run(write_row($key)), $key, '... which writes');
		is($worker->leave, 'released', '... until the block ends');
		is($worker->leave, 'committed', '... and the transaction');
		is($other->take($key, timeout => 0), 'held', 'then another holds it');
		is($other->run(rows($key)), 1, '... and sees what was written');

		$worker->ask('transaction');
		is($worker->take($key, scope => 'transaction', timeout => 10), "error\t55P03", 'refused after a timeout');
		is($worker->ask('fail'), 'failed', '... which ends the transaction');
		is($worker->run("SELECT 'on'"), 'on', '... and not the connection');
		$other->leave;

		$worker->ask('transaction');
		$worker->take($key, scope => 'transaction');
		$worker->run(write_row("$key lost"));
		is($worker->ask('fail'), 'failed', 'an exception ends the transaction');
		is_over($worker, $key);
	},
	exception => sub {
		my ($worker, $key) = @_;

		foreach my $begin ('transaction', 'begin')
		{
			$worker->take($key);
			is($worker->ask($begin), 'begun', "a transaction by $begin");
			$worker->run(write_row("$key lost"));
			is($worker->ask('fail'), 'failed', 'an exception ends it');
			is_over($worker, $key);
		}
	},
	aborted => sub {
		my ($worker, $key) = @_;

		foreach my $begin ('transaction', 'begin')
		{
			$worker->take($key);
			$worker->ask($begin);
			$worker->run(write_row("$key lost"));
			is($worker->run('SELECT 1 / 0'), "error\t22012", "a transaction by $begin is aborted");
			is($worker->ask('fail'), 'failed', 'an exception ends it');
			is_over($worker, $key);
		}
		is($worker->take($key), 'held', 'the connection is as good as new');
		is($worker->leave, 'released', '... with its lock');
	},
	'failed release' => sub {
		my ($worker, $key) = @_;
		my $name = $worker->name;

		is_lost($name, 'release', 'boolean', $key, sub { $_[0]->take($key) });
		is_lost($name, 'release_slot', 'integer', $key, sub { take_slot($_[0], $key, 1) }) if driver($name)->{slots};
	},
	'given up' => sub {
		my ($worker, $key) = @_;

		$other->take($key);
		$worker->send_command('give_up', $key);
		my $session = waiter($key);
		$worker->interrupt;
		# the signal of a driver that is deaf has to wait for the server's answer
		$other->leave if driver($worker->name)->{deaf};
		my ($answer, $left) = split /\t/, $worker->answer;
		is($answer, 'gave up', 'the driver gives up');
		$other->leave unless driver($worker->name)->{deaf};
		ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pglock.locks WHERE key = '$key'"),
			'... and nobody holds the lock or waits for it');
		my $now = $worker->look_up_session;
		is( ($left // $now) eq $session ? 'kept' : 'closed',
			driver($worker->name)->{given_up},
			'... and the connection is as documented');
		is($worker->take($key), 'held', '... and takes locks');
		is($worker->leave, 'released', '... and releases them');
	},
	slots => sub {
		my ($worker, $key) = @_;

		is($other->run("SELECT pglock.acquire_slot('$key', 1)::text"), 1, 'another holds one of two slots');
		is(take_slot($worker, $key, 2), "held\t2", 'the driver holds the other one');
		is(slots($key), $other->session . ': 1, ' . $worker->session . ': 2', '... and each its own');
		is(activity($worker, 'state'), 'idle', '... in no transaction');
		is($observer->run("SELECT pglock.try_slot('$key', 2) IS NULL"), 't', '... and nobody a third');
		is($worker->leave, 'released', '... until its block ends');
		is(slots($key), $other->session . ': 1', '... and no longer');

		is($other->run("SELECT pglock.acquire_slot('$key', 2)::text"), 2, 'another holds both');
		is(take_slot($worker, $key, 2, 0), "error\t55P03", '... and the driver is refused');
		my $begun = time;
		is(take_slot($worker, $key, 2, 100), "error\t55P03", '... also after a timeout');
		cmp_ok(time - $begun, '>=', 0.1, '... and not before');
		$worker->send_command('slot', $key, 2, 3_600_000);
		is(waiter($key), $worker->session, '... and waits');
		is(activity($worker, 'backend_xmin IS NULL'), 'true', '... without a snapshot');
		is($other->run("SELECT pglock.release_slot('$key', 1)::text"), 'true', '... until one of them is released');
		is($worker->answer, "held\t1", '... which the driver holds then');

		is(take_slot($worker, $key, 3), "held\t3", 'an inner block holds another slot');
		is($worker->leave, 'released', '... and releases it');
		is(slots($key), $worker->session . ': 1, ' . $other->session . ': 2', '... and no other');
		$worker->ask('transaction');
		$worker->run(write_row("$key lost"));
		is($worker->ask('fail'), 'failed', 'an exception ends all blocks');
		is_over($worker, $key);
		is(slots($key), $other->session . ': 2', '... and the slot is free');
		$other->run("SELECT pglock.release_slot('$key', 2)::text");
	},
	'slot examples' => sub {
		my ($worker) = @_;

		foreach my $scope (@{ driver($worker->name)->{slots} })
		{
			$node->safe_psql('postgres',
				"DELETE FROM orders; INSERT INTO orders SELECT id, 'new' FROM generate_series(1, 5) AS id");
			is($other->run("SELECT sum(pglock.acquire_slot('workers', 5)) FROM generate_series(1, 5)"),
				15, 'all slots are held');
			$worker->send_command('slot_example', $scope);
			is(waiter('workers'), $worker->session, "the example at $scope scope waits");
			is($other->run("SELECT pglock.release_slot('workers', 4)::text"), 'true', '... until one is released');
			is($worker->answer, 'done', '... and ends');
			is($observer->run("SELECT string_agg(id::text, ' ') FROM orders WHERE state = 'paid'"),
				3, '... when it has done the work of that slot');
			$other->run('SELECT pglock.release_all()');
			is(slots('workers'), '', '... and released it');
		}
	},
	'not held' => sub {
		my ($worker, $key) = @_;

		is($worker->run("SELECT pglock.release('$key')::text"), 'false', 'there is nothing to release');
		# what a recipe that has got nothing must not release
		$worker->run("SELECT pglock.acquire('$key', shared => true)::text");
		$other->take($key, mode => 'shared');
		is($worker->take($key, timeout => 0), "error\t55P03", 'a lock that is not got');
		is($worker->run("SELECT pglock.held('$key')::text"), 'true', '... takes nothing away');
		is($worker->run("SELECT pglock.release('$key')::text"), 'true', '... from those who have to release it');
		$other->leave;
	},
	committed => sub {
		my ($worker, $key) = @_;

		foreach my $begin ('transaction', undef)
		{
			my $writer = $begin // 'statement';

			$worker->take($key);
			$worker->ask($begin) if $begin;
			is($worker->run(write_row("$key $writer")), "$key $writer", "written by a $writer");
			$other->start_taking($key);
			$other->wait_until_waiting($observer);
			is($worker->leave, 'committed', '... which commits') if $begin;
			is($worker->leave, 'released', '... and then the lock is released');
			is($other->answer, 'held', 'the next holder');
			is($other->run(rows("$key $writer")), 1, '... sees it');

			$worker->start_taking($key);
			$worker->wait_until_waiting($observer);
			$other->run(write_row("$key other $writer"));
			$other->leave;
			is($worker->answer, 'held', 'and the driver, when it is the next holder');
			is($worker->run(rows("$key other $writer")), 1, '... sees what another wrote');
			$worker->leave;
		}
	},
	keys => sub {
		my ($worker) = @_;

		foreach my $key ([ 42, 'integer' ], [ '42', 'text' ], [ $uuid, 'uuid' ], [ $uuid, 'text' ], [ 'ключ', 'text' ])
		{
			my ($name, $type) = @$key;

			is($worker->take($name, type => $type), 'held', "$name, as $type");
			is(holders($name), $worker->session, '... is the lock of that text');
			$worker->leave;
			is(holders($name), '', '... and released');
		}
	},
	prepared => sub {
		my ($worker, $key) = @_;

		takes_by($worker->name, $key, 'prepared', qr/execute [^<]\S*/);
	},
	unprepared => sub {
		my ($worker, $key) = @_;

		takes_by($worker->name, $key, 'unprepared', qr/execute <unnamed>|statement/);
	},
	'no snapshot' => sub {
		my ($worker, $key, $otherwise) = @_;

		$other->take($key);
		$worker->start_taking($key);
		$worker->wait_until_waiting($observer);
		is( activity($worker, 'backend_xmin IS NULL'),
			$otherwise ? 'false' : 'true',
			'it waits ' . ($otherwise ? 'with' : 'without') . ' a snapshot');
		$other->leave;
		$worker->answer;
		$worker->leave;
	});

my @columns = map { $behaviours[ 2 * $_ ] } 0 .. $#behaviours / 2;
my %behaviour = @behaviours;
my %does_not = (
	prepared => ['unprepared_only'],
	unprepared => ['prepared_only'],
	'failed release' => ['transaction_only']);
# ... and what only some do
my %does_only_with = ('given up' => 'given_up', slots => 'slots', 'slot examples' => 'slots');
my @table;

foreach my $name (grep { $_ ne 'psql' } driver_names())
{
	my $worker = $workers{$name};

	push @table,
	  [
		$name,
		$worker ? $worker->version : '',
		map { $worker ? shown($worker, $_) : 'skipped' } @columns
	  ];
}
print_table([ 'driver', 'version', @columns ], @table);

if ($workers{'SQLAlchemy of trixie'})
{
	like($workers{'SQLAlchemy of trixie'}->version, qr/^2\./, 'SQLAlchemy 2 is among them');
}

# Lets the driver show the behaviour, and returns the cell of the table.
sub shown
{
	my ($worker, $behaviour) = @_;
	my $name = $worker->name;
	my $driver = driver($name);
	my $otherwise = $behaviour eq ($driver->{otherwise} // '');
	my $logged = -s $node->logfile;

	return '-' if grep { $driver->{$_} } @{ $does_not{$behaviour} // [] };
	return '-' if $does_only_with{$behaviour} && !$driver->{ $does_only_with{$behaviour} };
	my $passed = subtest(
		"$name: $behaviour",
		sub {
			$behaviour{$behaviour}->($worker, "$name $behaviour", $otherwise);
			# of a release before the end of a transaction, a wait with a snapshot, and the like
			my @warnings = map { /WARNING: +((?:lock|a slot of) ".*)/ } log_since($logged);

			is_deeply(\@warnings, $behaviour eq 'not held' ? ["lock \"$name not held\" is not held by this session"] : [],
				'it is warned of what it does wrong only');
		});

	return !$passed ? 'FAILED' : $otherwise ? 'no' : 'ok';
}

sub log_since
{
	my ($position) = @_;

	return split /\n/, slurp_file($node->logfile, $position);
}

# A new session takes and releases a lock by statements that are logged like that.
sub takes_by
{
	my ($name, $key, $how, $logged) = @_;
	my $worker = start_worker($name, $how);
	my $calls = driver($name)->{calls_unprepared} && $how eq 'prepared';

	ok($worker->is_ready, 'a worker of its own');
	$worker->run("SELECT set_config('log_statement', 'all', false)");

	my $position = -s $node->logfile;

	# more than once: some drivers prepare what they meet again
	foreach (1 .. 3)
	{
		is($worker->take($key), 'held', 'held');
		is(holders($key), $worker->session, '... indeed');
		is($worker->leave, 'released', '... and released');
		is(holders($key), '', '... indeed');
	}

	my @statements = grep { /pglock\.(lock|acquire|release)\(/ } log_since($position);

	is(scalar @statements, driver($name)->{transaction_only} ? 3 : 6, 'a statement for each');
	@statements = grep { !/CALL/ } @statements if $calls;
	is(join("\n", grep { !/LOG:  $logged: / } @statements), '', "... which is $how");
	$worker->stop;
	return;
}

sub take_slot
{
	my ($worker, $key, $slots, $timeout) = @_;

	return $worker->ask('slot', $key, $slots, $timeout // '');
}

# A new session takes what it cannot release, since the function, whose second parameter has that type, has gone.
sub is_lost
{
	my ($name, $function, $type, $key, $take) = @_;
	my $worker = start_worker($name);

	ok($worker->is_ready, 'a worker of its own');
	like($take->($worker), qr/^held/, 'held');
	rename_function($function, $type, 'no_release');
	$worker->send_command('end');
	ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pglock.locks WHERE key = '$key'"),
		"free when the block has ended, although there is no $function");
	rename_function('no_release', $type, $function);
	$worker->stop;
	return;
}

sub rename_function
{
	my ($old, $type, $new) = @_;

	$node->safe_psql('postgres', join ' ', map { "ALTER FUNCTION pglock.$old($_, $type) RENAME TO $new;" } qw(text bigint uuid));
	return;
}

# Statements for a worker
sub write_row
{
	my ($key) = @_;

	return "INSERT INTO written VALUES ('$key') RETURNING key";
}

sub rows
{
	my ($key) = @_;

	return "SELECT count(*)::text FROM written WHERE key = '$key'";
}

# The sessions that hold the lock
sub holders
{
	my ($key) = @_;

	return $observer->run("SELECT string_agg(pid::text, ' ') FROM pglock.holders('$key') AS pid");
}

# Who holds which slots
sub slots
{
	my ($key) = @_;

	return $observer->run("SELECT string_agg(format('%s: %s', pid, slot), ', ' ORDER BY slot) FROM pglock.locks
		WHERE key = '$key' AND slot > 0");
}

# The session that waits for the lock, or a slot
sub waiter
{
	my ($key) = @_;
	my $waiters = "FROM pglock.locks WHERE key = '$key' AND NOT granted";

	$node->poll_query_until('postgres', "SELECT count(*) = 1 $waiters") or die "nobody waits for $key";
	return $observer->run("SELECT pid::text $waiters");
}

# What pg_stat_activity has of the worker's session
sub activity
{
	my ($worker, $column) = @_;

	return $observer->run("SELECT ($column)::text FROM pg_stat_activity WHERE pid = " . $worker->session);
}

# After an exception: the transaction is rolled back, and the lock is free.
sub is_over
{
	my ($worker, $key) = @_;

	is(activity($worker, 'state'), 'idle', '... its transaction is over');
	is($observer->run(rows("$key lost")), 0, '... and rolled back');
	is(holders($key), '', '... and the lock is free');
	return;
}

stop_workers(values %workers, $other, $observer);
stop_and_check_log($node);
done_testing();
