# Fencing tokens grow over all that moves a database: dump and restore, a copy, a base backup, a
# restart. (For pg_upgrade see there.)

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

# Far ahead of the clock, which would hide what was forgotten.
use constant FAR => 8_000_000_000_000_000;

my $now = '(extract(epoch FROM clock_timestamp()) * 1000000)::bigint';
my $node = new_server('restore', init => { allows_streaming => 1 });
my $draw = "SELECT pglock.acquire('k'), pglock.token('k'), pglock.release('k')";

# The token that a new session draws in a hold of its own.
sub draw
{
	my ($server, $database) = @_;
	my $output = $server->safe_psql($database // 'postgres', $draw);

	return $output =~ /^t\|(\d+)\|t$/ ? $1 : die "no token: $output";
}

# On the clock: a restart makes the first draw wait until it has passed the bound.
my $last = draw($node);

$node->restart;
my ($token, $time) = split /\|/, $node->safe_psql('postgres', "SELECT pglock.token('k'), $now FROM pglock.acquire('k')");

cmp_ok($token, '>', $last, 'a restart: the next token is greater');
cmp_ok($token, '<=', $time, '... and not ahead of the clock');

# From here on ahead of it.
$node->safe_psql('postgres', "SELECT setval('pglock.tokens', " . FAR . ')');
is(draw($node), FAR + 1, 'ahead of the clock');
$node->restart;
$last = draw($node);
cmp_ok($last, '>', FAR + 1, 'a restart: the next token is greater');

# A dump has the bound, whoever makes it, and in whichever form.
$node->safe_psql('postgres', 'CREATE ROLE app LOGIN');
my $folder = PostgreSQL::Test::Utils::tempdir();

$node->command_ok([ 'pg_dump', '-U', 'app', '-f', "$folder/plain", 'postgres' ], 'an ordinary role dumps the database');
$node->command_ok([ 'pg_dump', '-U', 'app', '-Fc', '-f', "$folder/custom", 'postgres' ], '... in another form');
$node->command_ok([ 'pg_dumpall', '-f', "$folder/all" ], 'the cluster is dumped');
like(slurp_file("$folder/plain"), qr/setval\('pglock\.tokens', \d{16}, true\)/, 'the dump has the bound');

$node->safe_psql('postgres', "CREATE DATABASE $_") foreach 'plain', 'custom';
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$folder/plain", 'plain' ], 'psql restores it');
$node->command_ok([ 'pg_restore', '-d', 'custom', "$folder/custom" ], 'pg_restore does');
foreach my $database ('plain', 'custom')
{
	$token = draw($node, $database);
	cmp_ok($token, '>', $last, "restored to $database: the next token is greater");
	is(draw($node, $database), $token + 1, '... they go on from there');
}

my $other = new_server('other', extension => 0);

# (the role that made the cluster is there, too)
$other->command_checks_all([ 'psql', '-Xq', '-f', "$folder/all", 'postgres' ], 0, [], [qr/already exists/],
	'... and restored into another one');
cmp_ok(draw($other), '>', $last, '... the next token is greater');

# Copies of a database go on from where it was. What is not logged of the last token went into the
# copy, but must not be believed after a crash.
foreach my $strategy ('wal_log', 'file_copy')
{
	$last = draw($node);
	$node->safe_psql('template1', "CREATE DATABASE $strategy TEMPLATE postgres STRATEGY $strategy");

	my $in_copy = draw($node, $strategy);

	cmp_ok($in_copy, '>', $last, "copied by $strategy: the next token is greater");
	$in_copy = draw($node, $strategy);
	$last = draw($node);
	$node->stop('immediate');
	$node->start;
	cmp_ok(draw($node, $strategy), '>', $in_copy, '... after a crash, too');
	cmp_ok(draw($node), '>', $last, '... and in the database it is a copy of');
}

# A base backup of a running server that becomes a server of its own.
$last = draw($node);
$node->backup('backup');

my $restored = PostgreSQL::Test::Cluster->new('backup');

$restored->init_from_backup($node, 'backup');
$restored->start;
cmp_ok(draw($restored), '>', $last, 'restored from a base backup: the next token is greater');
stop_and_check_log($restored);

stop_and_check_log($other);
stop_and_check_log($node);
done_testing();
