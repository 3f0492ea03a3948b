# What docs/migrating.md says to those who come from other locks: the statements to write now leave a session
# with the same locks as those written so far, and what it shows of C++ compiles.
#
# The lock ids of the others are computed as their sources do it, and not by our code.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Compress::Zlib 'crc32';
use Digest::SHA qw(sha1 sha256);
use Docs;
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = "$FindBin::RealBin/../..";
my $document = 'docs/migrating.md';
my $node = new_server('migration');
my $old = session($node);
my $new = session($node);

# The rows of the tables of a section; each a list of its cells.
sub rows
{
	my ($title) = @_;

	return map { [ split / ?\| ?/, $_, -1 ] } grep { !/^---/ } section($document, $title) =~ /^\| (.*?) ?\|$/mg;
}

sub statements_in { return grep { /^(?:SELECT|CALL) / } $_[0] =~ /`([^`]+)`/g; }

# The advisory locks that a session has after a statement in a transaction, and when that has ended.
sub locks_after
{
	my ($session, @statements) = @_;
	my $locks = "SELECT 'locks: ' || coalesce(string_agg(concat_ws(' ', mode, classid, objid, objsubid), ', '), 'none')
		FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()";
	my $output = $session->query_safe(join ";\n", 'BEGIN', @statements, $locks, 'COMMIT', $locks,
		'SELECT pg_advisory_unlock_all()');

	return join '; ', $output =~ /^(locks: .*)/mg;
}

# The statements of a cell leave the locks that `so_far` leaves. `before`: what comes before both.
sub is_the_same
{
	my ($name, $cell, $so_far, @before) = @_;
	my @statements = statements_in($cell);

	isnt(scalar @statements, 0, "$name: there is something to write now");
	is(locks_after($new, @before, $_), locks_after($old, @before, $so_far), "... $_") foreach @statements;
	return;
}

# The rows of a table, each by what its first cell contains, in the order of the table.
#   is_table(\@rows, column, [ what, so far, before... ]...)
# Rows that are not mentioned must not have statements.
sub is_table
{
	my ($rows, $column, @expected) = @_;

	foreach my $row (@$rows)
	{
		my $cell = $row->[$column];

		if (@expected && index($row->[0], $expected[0][0]) >= 0)
		{
			my ($name, @statements) = @{ shift @expected };

			is_the_same($name, $cell, @statements);
		}
		else
		{
			is_deeply([ statements_in($cell) ], [], "$row->[0]: has no statement");
		}
	}
	is_deeply(\@expected, [], 'the table has all its rows');
	return;
}

my $id = "pglock.lock_id('x')";
my $taken = "SELECT pglock.acquire('x')";
my $taken_shared = "SELECT pglock.acquire('x', shared => true)";

# control: the locks are told apart
isnt(locks_after($old, $taken), locks_after($old, $taken_shared), 'control: modes differ');
isnt(locks_after($old, $taken), locks_after($old, "SELECT pglock.acquire('y')"), 'control: keys differ');
isnt(locks_after($old, $taken), locks_after($old, "SELECT pglock.acquire('x', scope => 'transaction')"),
	'control: scopes differ');

#
# The built-in functions
#

my @built_in = rows('Coming from `pg_advisory_lock`');

is_table(
	\@built_in, 1,
	map({ [ "`$_(id)`", "SELECT $_($id)" ] } qw(pg_advisory_lock pg_advisory_lock_shared
		  pg_try_advisory_lock pg_try_advisory_lock_shared pg_advisory_xact_lock pg_advisory_xact_lock_shared
		  pg_try_advisory_xact_lock pg_try_advisory_xact_lock_shared)),
	[ '`pg_advisory_unlock(id)`', "SELECT pg_advisory_unlock($id)", $taken ],
	[ '`pg_advisory_unlock_all()`', 'SELECT pg_advisory_unlock_all()', $taken, $taken_shared ],
	[ '`SET LOCAL lock_timeout`', "SELECT pg_advisory_lock($id)", "SET LOCAL lock_timeout = '5s'" ]);
is_the_same('pg_advisory_unlock_shared(id)', (grep { $_->[0] =~ /unlock_shared/ } @built_in)[0][1],
	"SELECT pg_advisory_unlock_shared($id)", $taken_shared);
is($new->query_safe("SELECT count(*) > count(DISTINCT hashtext('name ' || i)) FROM generate_series(1, 300000) AS i"),
	't', 'a hash of 32 bits is too short');

#
# The Python library postgres-lock
#

my @python = rows('Coming from the Python library postgres-lock');

# the statements of a row that are to be run one after the other
my ($with) = grep { $_->[0] =~ /with/ } @python;
is(locks_after($new, statements_in($with->[1])), locks_after($old, "SELECT pg_advisory_lock($id)", "SELECT pg_advisory_unlock($id)"),
	'with Lock(conn, "x")');
is_table(
	[ grep { $_ != $with } @python ], 1,
	[ '`acquire()`', "SELECT pg_advisory_lock($id)" ],
	[ '`acquire(block=False)`', "SELECT pg_try_advisory_lock($id)" ],
	[ 'no timeout', "SELECT pg_advisory_lock($id)" ],
	[ 'shared=True', "SELECT pg_advisory_lock_shared($id)" ],
	[ 'scope="transaction"', "SELECT pg_advisory_xact_lock($id)" ],
	[ '`release()`', "SELECT pg_advisory_unlock($id)", $taken ],
	map { [ $_, 'SELECT', $taken ] } '`locked`', '`ref_count`', '`key`, `lock_id`');
is($new->query_safe(join ";\n", $taken, map { statements_in($_->[1]) } grep { $_->[0] =~ /^`(?:locked|ref_count|key)/ } @python),
	join("\n", 't', 't', '1', $new->query_safe("SELECT $id")), 'locked, ref_count and lock_id are what the library has');
$new->query_safe('SELECT pglock.release_all()');

# what the library and we say when there is nothing to release at session scope
foreach my $release ("SELECT pg_advisory_unlock($id)", "SELECT pglock.release('x')")
{
	my ($stdout, $stderr);

	$node->psql('postgres', "BEGIN;\n\\o /dev/null\nSELECT pglock.acquire('x', scope => 'transaction');\n\\o\n$release;",
		stdout => \$stdout, stderr => \$stderr);
	is($stdout, 'f', "transaction scope: $release has nothing to release");
	like($stderr, qr/WARNING/, '... and says so');
}

# C++: each statement in a function of its own, and in a block, as it may have a `lock` of its own
my @statements = map { grep { /[;}]$/ } $_->[2] =~ /`([^`]+)`/g } @python;
my $source = "$PostgreSQL::Test::Utils::tmp_check/migration.cpp";
my $parameters = '[[maybe_unused]] PGconn *conn, [[maybe_unused]] pglock::lock &lock';

append_to_file($source, "#include <postgres_lock/libpq.hpp>\nusing namespace std::chrono_literals;\n");
foreach my $number (0 .. $#statements)
{
	my $statement = $statements[$number] =~ s/^catch/try { lock.acquire(); } catch/r;

	append_to_file($source, "void example$number($parameters) { { $statement } }\n");
}
cmp_ok(scalar @statements, '>=', 15, 'C++ is shown');
command_ok([ 'sh', '-c', ($ENV{CXX} // 'g++')
		  . " -std=c++20 -fsyntax-only -Wno-unused-result -I$root/src/client \$(pkg-config --cflags libpq) $source" ],
	'... and compiles');

#
# Other libraries
#

my $others = 'Coming from django-pglock, with_advisory_lock or DistributedLock';

is_table(
	[ grep { @$_ == 5 } rows($others) ], 4,
	map({ [ $_, "SELECT pg_advisory_lock($id)" ] } 'Wait', 'then an error', 'then `false`', "Don't wait"),
	[ 'Shared', "SELECT pg_advisory_lock_shared($id)" ],
	[ 'Until the transaction ends', "SELECT pg_advisory_xact_lock($id)" ],
	[ 'Give it back', "SELECT pg_advisory_unlock($id)", $taken ],
	[ 'Is it taken?', 'SELECT true', $taken ]);

# The lock ids of django-pglock and of DistributedLock, where it hashes
sub django_id { return unpack 'q<', sha256($_[0]); }
sub dotnet_id { return unpack 'q<', sha1($_[0]); }

# The two integers of DistributedLock for short names, and of with_advisory_lock
sub dotnet_integers
{
	my ($name) = @_;
	my $bits = join '', map({ sprintf '%07b', ord } split //, $name), '0', '1' x (63 - 7 * length $name);

	return join ', ', unpack 'l>l>', pack 'B64', $bits;
}

sub ruby_integers { return (crc32($_[0]) & 0x7fffffff) . ', 0'; }

# values that its own tests have, and the check value of CRC-32
is(dotnet_id('漢' x 18), '-5707277204051710361', 'the id of DistributedLock');
is(dotnet_integers("\0" x 9), '0, 0', '... and the integers of a short name');
is(crc32('123456789'), 0xcbf43926, 'the hash of with_advisory_lock');

my ($functions) = examples(section($document, $others), 'sql');

$new->query_safe($functions);
is_table(
	[ grep { @$_ == 3 } rows($others) ], 2,
	[ "hashtext('x')", "SELECT pg_advisory_lock(hashtext('x'))" ],
	[ "hashtextextended('x', 0)", "SELECT pg_advisory_lock(hashtextextended('x', 0))" ],
	[ 'django-pglock: a number', 'SELECT pg_advisory_lock(7)' ],
	[ 'django-pglock: a text', 'SELECT pg_advisory_lock(' . django_id('x') . ')' ],
	[ 'DistributedLock: a number', 'SELECT pg_advisory_lock(17179869183)' ],
	[ 'DistributedLock: up to 9', 'SELECT pg_advisory_lock(' . dotnet_integers('x') . ')' ],
	[ 'DistributedLock: other names', 'SELECT pg_advisory_lock(' . dotnet_id('some long name') . ')' ],
	[ 'with_advisory_lock', 'SELECT pg_advisory_lock(' . ruby_integers('x') . ')' ]);
foreach my $name ('', 'order:42', 'café', '日本語', map({ "name $_" } 1 .. 20))
{
	is($new->query_safe("SELECT django_pglock_id('$name'), distributed_lock_id('$name')"),
		django_id($name) . '|' . dotnet_id($name), "the functions for old ids: '$name'");
}

# One program at a time: who takes both locks excludes those who take one of them.
my @both = map { s/^(?:SELECT pglock.release|COMMIT).*//msr } examples(section($document, 'One program at a time'), 'sql');

foreach my $pair ([ $both[0], "hashtext('x')" ], [ $both[1], ruby_integers('x') ])
{
	my ($statements, $key) = @$pair;
	my $end = $statements =~ /^BEGIN/ ? 'ROLLBACK' : 'SELECT pglock.release_all()';

	$new->query_safe($statements);
	is($old->query_safe("SELECT pg_try_advisory_lock($key), pglock.try('x')"), 'f|f', "both locks are taken: $key");
	$new->query_safe($end);
	is($old->query_safe("SELECT pg_try_advisory_lock($key), pglock.try('x')"), 't|t', '... and given back');
	$old->query_safe('SELECT pg_advisory_unlock_all()');
}

$_->quit foreach $old, $new;
stop_and_check_log($node);
done_testing();
