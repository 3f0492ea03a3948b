# The queries file for Prometheus' postgres_exporter: each query gives what the file says of it, and
# the exporter serves metrics of them that are right. The rules for alerts and the dashboard use these metrics,
# and the rules find what they are for.
#
# The environment variable POSTGRES_EXPORTER names the exporter's program, PROMTOOL Prometheus' promtool.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use CPAN::Meta::YAML;
use HTTP::Tiny;
use IPC::Run;
use JSON::PP;
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

my $monitoring = "$FindBin::RealBin/../../src/monitoring";
my $file = "$monitoring/postgres_lock_exporter.yaml";
my $queries = CPAN::Meta::YAML->read_string(slurp_file($file))->[0];
my %exporter;    # the one that runs: `process`, `log`, `url`

my $node = new_server('exporter', conf => "shared_preload_libraries = 'postgres_lock'\n");

# a second database, in which there is a lock of a name that the first one has, too
$node->safe_psql('postgres', <<'END');
CREATE DATABASE second;
CREATE ROLE monitor LOGIN IN ROLE pg_monitor;
CREATE ROLE nobody LOGIN;
END
$node->safe_psql('second', 'CREATE EXTENSION postgres_lock');

my $holder = session($node);
my $waiter = session($node);
my $lease_waiter = session($node);
my $in_second = session($node, database => 'second');

# names that are hard on labels, two that are shown alike, and an id without a name
my $long = 'x' x 300;
my @keys = ("'order:42'", "''", q{E'a"b\\\\c\nd'}, "'ключ'", "'${long}1'", "'${long}2'");

# acquire() of all of them
sub acquire_all
{
	my ($more) = @_;

	return 'SELECT ' . join ', ', map({ "pglock.acquire($_ $more)" } @keys), "pglock.acquire_raw(7 $more)";
}

# All are held, and order:42 is waited for. All have been waited for in vain, and so has a slot of one of those keys.
# One lease of three is waited for.
sub make_busy
{
	$holder->query_safe(acquire_all(''));
	$holder->query_safe("SELECT pglock.acquire_slot('ключ', 1)");
	$holder->query_safe("SELECT pglock.acquire_lease('job', '1 hour')");
	$holder->query_safe("SELECT pglock.acquire_lease('pool', '1 hour', slots => 2) FROM generate_series(1, 2)");
	$holder->query_safe('BEGIN; SELECT pg_advisory_lock(1, 2);
		SELECT pglock.acquire(\'report\', shared => true, scope => \'transaction\')');
	$waiter->query_safe(acquire_all(", timeout => '10ms'"));
	$waiter->query_safe("SELECT pglock.acquire_slot('ключ', 1, '10ms')");
	start_waiting($waiter, "SELECT pglock.acquire('order:42')");
	# the lock manager notes the time just after the wait has begun
	$node->poll_query_until('postgres', 'SELECT count(waiting_since) = 1 FROM pglock.locks')
	  or die 'nobody waits';
	$holder->query_safe("SELECT pglock.acquire('newest')");
	start_waiting($lease_waiter, "SELECT pglock.acquire_lease('job')");
	$node->poll_query_until('postgres', "SELECT waiters = 1 FROM pglock.leases WHERE key = 'job'")
	  or die 'nobody waits for the lease';
	$in_second->query_safe("SELECT pglock.acquire('order:42')");
	return;
}

# ... and then nothing is.
sub make_idle
{
	$holder->query_safe('COMMIT; SELECT pglock.release_all(), pg_advisory_unlock(1, 2)');
	is(finish_waiting($waiter), '00000', 'the waiter gets the lock');
	$waiter->query_safe('SELECT pglock.release_all()');
	$holder->query_safe('SELECT pglock.revoke_lease(key) FROM pglock.leases');
	is(finish_waiting($lease_waiter), '00000', '... and so does that for the lease');
	$lease_waiter->query_safe('SELECT pglock.revoke_lease(key) FROM pglock.leases');
	$in_second->query_safe('SELECT pglock.release_all()');
	return;
}

#
# The queries
#

# The columns of a query that the file declares, of a usage or of all.
sub columns
{
	my ($name, $usage) = @_;

	return map { keys %$_ } grep { !$usage || (values %$_)[0]{usage} =~ /^$usage$/ } @{ $queries->{$name}{metrics} };
}

sub is_histogram
{
	my ($name, $column) = @_;

	return scalar grep { $_ eq $column } columns($name, 'HISTOGRAM');
}

is_deeply([ sort keys %$queries ], [ map { "pglock_$_" } qw(contention contention_info idle_holders leases locks server slots wait) ], 'the file has its queries');

foreach my $name (sort keys %$queries)
{
	my @described = split /\n/, $node->safe_psql('postgres', "$queries->{$name}{query}\\gdesc");
	my %types = map { split /\|/ } @described;

	# a histogram is four columns: the bounds, how many are below each, the sum and the count
	is_deeply([ map { s/\|.*//r } @described ],
		[ map { my $column = $_; $column, map({ "${column}_$_" } grep { is_histogram($name, $column) } qw(bucket sum count)) } columns($name) ],
		"$name: its columns are those declared");
	is_deeply([ grep { $types{$_} !~ /^(?:name|text|bigint)$/ } columns($name, 'LABEL') ], [], '... labels are names');
	is_deeply([ grep { $types{$_} !~ /^(?:integer|bigint|numeric|double precision)$/ } columns($name, 'GAUGE|COUNTER') ],
		[], '... all else are numbers');
	is_deeply([ columns($name, 'COUNTER') ], [ grep { /_total$/ } columns($name) ], '... counters are called so');
	is_deeply([ grep { ((values %$_)[0]{description} // '') eq '' } @{ $queries->{$name}{metrics} } ],
		[], '... every column is described');
}

# Whoever may create in the schema public can make what fits operands and arguments better than the catalog's: none
# of that is for the exporter's role to run.
$node->safe_psql('postgres', 'CREATE DATABASE traps');
$node->safe_psql('traps', <<'END');
CREATE EXTENSION postgres_lock;
CREATE FUNCTION trap(anyelement) RETURNS boolean LANGUAGE sql AS 'SELECT true';
DO $$
DECLARE
	types regtype[] = '{boolean,integer,bigint,numeric,double precision,name,text,interval,timestamptz}';
	trap record;
BEGIN
	FOR trap IN
		SELECT l, r, array_agg(name) AS names
		FROM unnest(types) AS l, unnest(types) AS r, unnest('{+,-,*,/,%,||,=,<>,<,<=,>,>=}'::text[]) AS name
		WHERE NOT EXISTS (SELECT FROM pg_operator WHERE (oprname, oprleft, oprright) = (name, l, r))
		GROUP BY l, r
	LOOP
		EXECUTE format('CREATE FUNCTION trap(%s, %s) RETURNS %1$s LANGUAGE sql AS ''SELECT $1''', trap.l, trap.r);
		FOR i IN 1 .. cardinality(trap.names) LOOP
			EXECUTE format('CREATE OPERATOR %s (FUNCTION = trap, LEFTARG = %s, RIGHTARG = %s)', trap.names[i], trap.l, trap.r);
		END LOOP;
	END LOOP;
	FOR trap IN
		SELECT DISTINCT proname, type FROM pg_proc, unnest(types) AS type
		WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'a' AND pronargs = 1
		  AND EXISTS (SELECT FROM pg_type WHERE oid = proargtypes[0] AND typtype = 'p')
	LOOP
		EXECUTE format('CREATE AGGREGATE %I(%s) (SFUNC = trap, STYPE = %2$s)', trap.proname, trap.type);
	END LOOP;
END $$;
END
foreach my $query ([ 'control' => 'SELECT 1 - 1.0 AS difference, array_agg(1) AS numbers', 2 ],
	map { [ $_ => $queries->{$_}{query}, 0 ] } sort keys %$queries)
{
	my ($name, $sql, $trapped) = @$query;

	is($node->safe_psql('traps', <<"END"), $trapped, "$name: what is run instead of the catalog's");
SET client_min_messages = warning;
CREATE TEMP VIEW query AS $sql;
SELECT count(DISTINCT refobjid) FROM pg_depend
WHERE objid = (SELECT oid FROM pg_rewrite WHERE ev_class = 'query'::regclass)
  AND (refobjid IN (SELECT oid FROM pg_operator WHERE oprnamespace = 'public'::regnamespace)
	   OR refobjid IN (SELECT oid FROM pg_proc WHERE pronamespace = 'public'::regnamespace));
END
}

is( $node->safe_psql('postgres',
		"SELECT count(*), sum(held), sum(waiting), sum(longest_hold_seconds), sum(longest_wait_seconds)
		 FROM ($queries->{pglock_locks}{query}) AS rows"),
	'6|0|0|0|0', 'idle: the locks are 0, and not absent');
is($node->safe_psql('postgres', $queries->{pglock_contention}{query}), '', '... and nothing was contended');
is($node->safe_psql('postgres', $queries->{pglock_leases}{query}), 'postgres|0|0|0|0', '... and no lease is held');
is($node->safe_psql('postgres', $queries->{pglock_slots}{query}), 'postgres|0|0|0|0', '... and no slot');

make_busy();
foreach my $role ('monitor', 'nobody')
{
	foreach my $name (sort keys %$queries)
	{
		my $labels = join ', ', columns($name, 'LABEL');
		my $values = join ', ', columns($name, 'GAUGE|COUNTER|HISTOGRAM'), map { ("${_}_bucket", "${_}_sum", "${_}_count") } columns($name, 'HISTOGRAM');
		my (undef, $rows) = $node->psql('postgres',
			"SELECT count(*), count(DISTINCT ($labels)), count(*) FILTER (WHERE num_nulls($values) > 0)
			 FROM ($queries->{$name}{query}) AS rows", extra_params => [ '-U', $role ]);
		my %expected = (pglock_locks => 6, pglock_contention => @keys + 2, pglock_wait => @keys + 2, map { ("pglock_$_" => 1) } qw(contention_info idle_holders leases server slots));

		is($rows, "$expected{$name}|$expected{$name}|0", "busy, asked by $role: $name has no NULL, and no row has the labels of another");
	}
}
make_idle();

#
# What uses the metrics
#

# Each metric that is declared, and what it is; and what may be used of it.
my (%declared, %usable);

foreach my $name (keys %$queries)
{
	$declared{"${name}_$_"} = 'counter' foreach columns($name, 'COUNTER');
	$declared{"${name}_$_"} = 'gauge' foreach columns($name, 'GAUGE');
	$declared{"${name}_$_"} = 'histogram' foreach columns($name, 'HISTOGRAM');
}
foreach my $metric (keys %declared)
{
	$usable{$_} = 1 foreach $declared{$metric} eq 'histogram' ? map { "${metric}_$_" } qw(bucket sum count) : $metric;
}
foreach my $user ('postgres_lock_alerts.yaml', 'postgres_lock_dashboard.json')
{
	my %used = map { $_ => 1 } slurp_file("$monitoring/$user") =~ /\b(pglock_\w+)/g;

	cmp_ok(keys %used, '>', 5, "$user uses metrics");
	is_deeply([ grep { !$usable{$_} } sort keys %used ], [], '... that there are');
}

my $panels = decode_json(slurp_file("$monitoring/postgres_lock_dashboard.json"))->{panels};
my (%ids, @overlaps);

foreach my $panel (@$panels)
{
	my $place = $panel->{gridPos};

	$ids{ $panel->{id} }++;
	push @overlaps, $panel->{title} if $place->{x} + $place->{w} > 24;
}
is(scalar keys %ids, scalar @$panels, 'the panels of the dashboard have ids of their own');
is_deeply(\@overlaps, [], '... and fit');

subtest 'the alerts' => sub {
	plan skip_all => 'PROMTOOL does not say where the program is' unless $ENV{PROMTOOL};

	my $folder = PostgreSQL::Test::Utils::tempdir();

	# the tests name the rules by a file beside them
	append_to_file("$folder/$_->[1]", slurp_file("$_->[0]/$_->[1]"))
	  foreach [ $monitoring, 'postgres_lock_alerts.yaml' ], [ "$FindBin::RealBin/../monitoring", 'alerts_test.yaml' ];
	command_ok([ $ENV{PROMTOOL}, 'check', 'rules', "$folder/postgres_lock_alerts.yaml" ], 'Prometheus understands the rules');
	command_ok([ $ENV{PROMTOOL}, 'test', 'rules', "$folder/alerts_test.yaml" ], '... which find what is wrong, and nothing else');

	my @rules = slurp_file("$folder/postgres_lock_alerts.yaml") =~ /- alert: (\w+)/g;
	my $tests = slurp_file("$folder/alerts_test.yaml");

	is_deeply([ grep { (() = $tests =~ /alertname: $_\b/g) < 2 } @rules ], [], '... each of them');
};

#
# The exporter
#

sub start_exporter
{
	my ($role, @options) = @_;
	my $address = '127.0.0.1:' . PostgreSQL::Test::Cluster::get_free_port();

	# nothing but our metrics; by the environment, as there are versions that lack a flag
	local $ENV{PG_EXPORTER_DISABLE_DEFAULT_METRICS} = 'true';
	local $ENV{PG_EXPORTER_DISABLE_SETTINGS_METRICS} = 'true';
	local $ENV{DATA_SOURCE_NAME} =
	  'host=' . $node->host . ' port=' . $node->port . " user=$role dbname=postgres sslmode=disable";

	$exporter{url} = "http://$address/metrics";
	$exporter{log} = "$PostgreSQL::Test::Utils::log_path/exporter.log";
	$exporter{process} = IPC::Run::start(
		[ $ENV{POSTGRES_EXPORTER}, "--extend.query-path=$file", "--web.listen-address=$address", @options ],
		'<', '/dev/null', '>', $exporter{log}, '2>&1');
	return;
}

sub stop_exporter
{
	$exporter{process}->kill_kill if $exporter{process};
	undef $exporter{process};
	return;
}

END
{
	local $?;
	stop_exporter();
}

# What it serves, as soon as it does.
sub scrape
{
	my $http = HTTP::Tiny->new(no_proxy => '127.0.0.1', timeout => $PostgreSQL::Test::Utils::timeout_default);

	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my $response = $http->get($exporter{url});

		return $response->{content} if $response->{success};
		# 599 is HTTP::Tiny's own: it does not listen yet
		last if $response->{status} != 599 || !$exporter{process}->pumpable;
		select undef, undef, undef, 0.1;
	}
	die 'the exporter does not serve metrics: ' . slurp_file($exporter{log});
}

# The value of a metric; labels in the order of their names.
sub value
{
	my ($metrics, $name, $labels) = @_;
	my @values = $metrics =~ /^\Q$name\E\{\Q$labels\E,server="[^"]*"\} (.*)$/mg;

	return @values == 1 ? $values[0] : @values . ' values';
}

# How many locks are held and waited for, without the zeros.
sub counts
{
	my ($metrics) = @_;

	return [ sort map { s/,server="[^"]*"|[}"]|pglock_locks_|datname=|mode=|scope=//gr =~ s/\{/,/r }
		  $metrics =~ /^(pglock_locks_(?:held|waiting)\{.*\} [^0].*)$/mg ];
}

sub is_without_error
{
	my ($metrics, $when) = @_;

	like($metrics, qr/^pg_exporter_user_queries_load_error\{.*\} 0$/m, "$when: the exporter understands the file");
	like($metrics, qr/^pg_exporter_last_scrape_error 0$/m, '... and every query runs');
	return;
}

# How long order:42 is waited for and held, by the view.
sub durations
{
	return split /\|/, $node->safe_psql('postgres',
		"SELECT extract(epoch FROM now() - max(waiting_since)), extract(epoch FROM now() - max(held_since))
		 FROM pglock.locks WHERE key = 'order:42'");
}

sub is_between
{
	my ($value, $least, $most, $name) = @_;

	ok($value =~ /^[\d.e-]+$/ && $least <= $value && $value <= $most, $name)
	  or diag("$value is not between $least and $most");
	return;
}

subtest 'the exporter' => sub {
	plan skip_all => 'POSTGRES_EXPORTER does not say where the program is' unless $ENV{POSTGRES_EXPORTER};

	start_exporter('monitor');
	$node->safe_psql('postgres', 'SELECT pglock.contention_reset()');

	my $metrics = scrape();

	is_without_error($metrics, 'idle');
	foreach my $mode ('exclusive', 'shared')
	{
		foreach my $scope ('session', 'transaction', 'unknown')
		{
			my $labels = qq{datname="postgres",mode="$mode",scope="$scope"};

			is(value($metrics, "pglock_locks_$_", $labels), '0', "... $_ is 0: $mode, $scope")
			  foreach columns('pglock_locks', 'GAUGE');
		}
	}
	unlike($metrics, qr/^pglock_contention_(?!info)/m, '... there is no contention');
	is(value($metrics, 'pglock_contention_info_max_keys', 'datname="postgres"'), '1000', '... but room for some');

	make_busy();

	my @before = durations();
	$metrics = scrape();
	my @after = durations();
	my $labels = 'datname="postgres",mode="exclusive",scope="session"';

	is_without_error($metrics, 'busy');
	is_deeply(
		counts($metrics),
		[
			'held,postgres,exclusive,session ' . (@keys + 3),
			'held,postgres,exclusive,unknown 1',
			'held,postgres,shared,transaction 1',
			'waiting,postgres,exclusive,session 1',
		],
		'... all locks are counted');
	is_between(value($metrics, 'pglock_locks_longest_wait_seconds', $labels),
		$before[0], $after[0], '... the longest wait');
	is_between(value($metrics, 'pglock_locks_longest_hold_seconds', $labels),
		$before[1], $after[1], '... the longest hold');

	is(value($metrics, "pglock_$_->[0]", 'datname="postgres"'), $_->[1], "... $_->[0]")
	  foreach ([ leases_held => 3 ], [ leases_waiting => 1 ], [ slots_held => 1 ], [ slots_waiting => 0 ], [ idle_holders_sessions => 0 ],
		[ server_lock_table_size => $node->safe_psql('postgres', "SELECT current_setting('max_locks_per_transaction')::int * current_setting('max_connections')::int") ]);
	is_between(value($metrics, 'pglock_leases_unrenewed_ratio', 'datname="postgres"'), 0, 0.2, '... nearest to its end');

	# the key as it is shown, and by what to find it
	foreach my $key (
		[ 'order:42', "lock_id('order:42')" ], [ '', "lock_id('')" ],
		[ 'a\"b\\\\c\nd', "lock_id($keys[2])" ], [ 'ключ', "lock_id('ключ')" ],
		[ 'x' x 255 . '...', "lock_id('${long}1')" ], [ 'x' x 255 . '...', "lock_id('${long}2')" ],
		[ '', 'lock_id(7)', 7 ], [ 'ключ', "lock_id('ключ')", undef, 'true' ])
	{
		my ($shown, $sql, $id, $of_slots) = @$key;

		$id //= $node->safe_psql('postgres', "SELECT pglock.$sql");
		$of_slots //= 'false';
		$labels = qq{datname="postgres",key="$shown",lock_id="$id",of_slots="$of_slots"};

		my ($total, $max) = split /\|/, $node->safe_psql('postgres',
			"SELECT total_wait_time / 1000, max_wait_time / 1000 FROM pglock.contention
			 WHERE lock_id = $id AND of_slots = $of_slots");
		my @values = map { value($metrics, "pglock_contention_$_", $labels) }
		  qw(waits_total timeouts_total deadlocks_total cancels_total);

		is("@values", '1 1 0 0', '... waits are counted: ' . substr($shown, 0, 20) . " $id, slots: $of_slots");
		is_between(value($metrics, 'pglock_contention_wait_seconds_total', $labels),
			$total - 1e-9, $total + 1e-9, '... and their time');
		is_between(value($metrics, 'pglock_contention_max_wait_seconds', $labels),
			$max - 1e-9, $max + 1e-9, '... and the longest');

		my %buckets = $metrics =~ /^pglock_wait_seconds_bucket\{\Q$labels\E,server="[^"]*",le="([^"]+)"\} (\d+)$/mg;

		is(join(' ', map { "$_:$buckets{$_}" } sort { $a <=> $b } keys %buckets),
			join(' ', map { "$_:" . ($_ eq '+Inf' || $_ >= $total ? 1 : 0) } qw(0.001 0.003 0.01 0.03 0.1 0.3 1 3 10 30 100 300 +Inf)),
			'... by their duration');
		is(value($metrics, 'pglock_wait_seconds_count', $labels), '1', '... as often');
		is_between(value($metrics, 'pglock_wait_seconds_sum', $labels), $total - 1e-9, $total + 1e-9, '... and as long');
	}

	is(value($metrics, 'pglock_contention_info_keys', 'datname="postgres"'), @keys + 2, '... and how many keys there are');

	# each metric that is declared is there, as what it is, and no other
	my %types = $metrics =~ /^# TYPE (pglock_\w+) (\w+)$/mg;

	is_deeply(\%types, \%declared, '... every metric that is declared is served');

	# all databases, and a role that may see nothing
	stop_exporter();
	start_exporter('monitor', '--auto-discover-databases');
	$metrics = scrape();
	is_without_error($metrics, 'all databases');
	is_deeply(
		counts($metrics),
		[
			'held,postgres,exclusive,session ' . (@keys + 3),
			'held,postgres,exclusive,unknown 1',
			'held,postgres,shared,transaction 1',
			'held,second,exclusive,session 1',
			'waiting,postgres,exclusive,session 1',
		],
		'... locks are told apart by their database');
	is(value($metrics, 'pglock_idle_holders_sessions', 'datname="second"'), '1', '... who holds and does nothing is counted');
	is_between(value($metrics, 'pglock_idle_holders_longest_idle_seconds', 'datname="second"'), 0.001,
		$PostgreSQL::Test::Utils::timeout_default, '... and for how long');

	stop_exporter();
	start_exporter('nobody');
	$metrics = scrape();
	is_without_error($metrics, 'without privileges');
	is_deeply(
		counts($metrics),
		[
			'held,postgres,exclusive,unknown ' . (@keys + 4),
			'held,postgres,shared,unknown 1',
			'waiting,postgres,exclusive,unknown 1',
		],
		'... all locks are counted');
	is(scalar(() = $metrics =~ /^pglock_contention_waits_total\{.*\} 1$/mg), @keys + 2, '... and all waits');
	is(scalar(() = $metrics =~ /^pglock_contention_waits_total\{.*key="<insufficient privilege>",(?!lock_id="7")/mg),
		@keys + 1, '... without names');

	make_idle();
	$metrics = scrape();
	is_deeply(counts($metrics), [], 'idle again: nothing is held or waited for');
	like($metrics, qr/^pglock_contention_waits_total\{.*lock_id="171650432343885150",.*\} 2$/m,
		'... and the wait that has ended is counted');
	stop_exporter();
};

end_session($holder, $waiter, $lease_waiter, $in_second);
stop_and_check_log($node);
done_testing();
