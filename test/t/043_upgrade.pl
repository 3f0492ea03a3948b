# Upgrades of the extension: every step from the first version to the newest leaves what the version
# looks like when it is created afresh, locks that are held stay held meanwhile, and whoever has a new
# library with an old extension, or the other way round, is told what to do.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgInstallation;
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

my $folder = PostgreSQL::Test::Utils::tempdir();

#
# The versions that there are
#

my $installation = PgInstallation->new($folder);
my $node = new_server('upgrade', install_path => $installation->install_path, extension => 0);
my ($newest) = $installation->installed('postgres_lock.control') =~ /^default_version = '(.*)'$/m;
my $databases = 0;

# A database of its own with that version of the extension, or the newest.
sub create
{
	my ($version) = @_;
	my $database = 'database' . $databases++;

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, 'CREATE EXTENSION postgres_lock' . ($version ? " VERSION '$version'" : ''));
	return $database;
}

sub update
{
	my ($database, $version) = @_;

	return $node->safe_psql($database, "ALTER EXTENSION postgres_lock UPDATE TO '$version'");
}

# The versions from the first to that one, in the order of the scripts.
sub steps
{
	my ($to) = @_;
	my $path = $node->safe_psql('postgres',
		"SELECT path FROM pg_extension_update_paths('postgres_lock') WHERE source = '1.0' AND target = '$to'");

	return $to eq '1.0' ? '1.0' : split /--/, $path;
}

my @steps = steps($newest);
my @scripts = map { $installation->installed("postgres_lock--$_.sql") }
  ('1.0', map { "$steps[ $_ - 1 ]--$steps[$_]" } 1 .. $#steps);
my $database = create(shift @steps);

is($steps[-1] // '1.0', $newest, 'there are scripts from 1.0 to the newest version');
is_deeply(describe_extension($node, $database), describe_extension($node, create('1.0')), 'two of 1.0 are equal');
foreach my $version (@steps)
{
	update($database, $version);
	is_deeply(describe_extension($node, $database), describe_extension($node, create($version)),
		"updated to $version it is as if it had been created so");
}

# What procedures that got another parameter could be called by, and without an upgrade still can
$database = create('1.0');
is($node->safe_psql($database, <<'END'), 'done|f', '1.0 with the newest library: CALL lock as it was');
CALL pglock.lock('k', '1s', true);
SELECT 'done', pglock.is_free('k');
END
$node->safe_psql($database, <<'END');
CREATE ROLE operator;
REVOKE ALL ON PROCEDURE pglock.lock(text, interval, boolean) FROM PUBLIC;
GRANT EXECUTE ON PROCEDURE pglock.lock(text, interval, boolean) TO operator WITH GRANT OPTION;
CREATE ROLE owner;
ALTER PROCEDURE pglock.lock(uuid, interval, boolean) OWNER TO owner;
END
update($database, $newest);

my $privileges = q{SELECT proacl FROM pg_proc WHERE oid = 'pglock.lock(text, interval, boolean, text)'::regprocedure};

is($node->safe_psql($database, $privileges), '{postgres=X/postgres,operator=X*/postgres}', 'updated: privileges are kept');
is($node->safe_psql($database, "SELECT proowner::regrole, (SELECT count(*) FROM pg_shdepend WHERE objid = p.oid)
	FROM pg_proc p WHERE oid = 'pglock.lock(uuid, interval, boolean, text)'::regprocedure"), 'owner|1', '... and owners');
is(($node->psql($database, 'DROP ROLE operator'))[0], 3, '... whose roles are needed');
is($node->safe_psql($database, 'SHOW search_path'), '"$user", public', '... and the search path is as before');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->run_log([ 'sh', '-c', qq{pg_dump $database | psql -q -v ON_ERROR_STOP=1 restored} ]);
is($node->safe_psql('restored', $privileges), '{postgres=X/postgres,operator=X*/postgres}', '... and dumped');

# Whoever may create in the schema gains nothing by functions that look like those that are replaced
$database = create('1.0');
$node->safe_psql($database, <<'END');
CREATE ROLE intruder;
GRANT CREATE, USAGE ON SCHEMA pglock TO intruder;
SET ROLE intruder;
CREATE FUNCTION pglock.lock(text) RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user';
CREATE FUNCTION pglock.acquire_of_1_0(text) RETURNS text LANGUAGE sql AS 'SELECT current_user';
END
update($database, $newest);
is($node->safe_psql($database, <<'END'), "pglock.acquire_of_1_0(text)\npglock.lock(text)", 'other functions keep their owners');
SELECT oid::regprocedure FROM pg_proc
WHERE pronamespace = 'pglock'::regnamespace AND proowner = 'intruder'::regrole ORDER BY proname
END

$database = create('1.0');
$node->safe_psql($database, 'DROP EXTENSION plpgsql');
update($database, $newest);
$node->safe_psql($database, 'DROP EXTENSION postgres_lock; CREATE EXTENSION postgres_lock');

#
# A version that there is not, after them; a script that forgets any of its changes is found out
#

my $next = '99.0';
my @changes = split /;\n/, <<'END';
CREATE FUNCTION is_held(key text) RETURNS boolean AS 'MODULE_PATHNAME', 'pglock_held_text' LANGUAGE C;
DROP FUNCTION registry_size();
ALTER FUNCTION holders(text) ROWS 2;
ALTER FUNCTION held(text) PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION release_all() FROM PUBLIC;
COMMENT ON FUNCTION held(text) IS 'Is it held?';
CREATE OR REPLACE VIEW contention AS SELECT * FROM @extschema@.contention_status() WHERE waits > 0;
GRANT SELECT (key) ON locks TO pg_monitor;
COMMENT ON COLUMN locks.key IS 'The name';
ALTER SEQUENCE tokens CACHE 2;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.tokens', 'WHERE true');
GRANT CREATE ON SCHEMA @extschema@ TO pg_monitor;
COMMENT ON SCHEMA @extschema@ IS 'Locks';
END

sub install_step
{
	$installation->install("postgres_lock--$newest--$next.sql" => join '', map { "$_;\n" } @_);
	return;
}

# What the extension is like where it was updated to that version.
sub updated
{
	my $updated = create($newest);

	update($updated, $next);
	return describe_extension($node, $updated);
}

$installation->install("postgres_lock--$next.sql" => join "\n", @scripts, map { "$_;" } @changes);
install_step(@changes);

my $wanted = describe_extension($node, create($next));

is_deeply(updated(), $wanted, 'a script with all that is new in it leads there');
foreach my $number (0 .. $#changes)
{
	install_step(@changes[ grep { $_ != $number } 0 .. $#changes ]);
	isnt(join("\n", @{ updated() }), join("\n", @$wanted), "one without this does not: $changes[$number]");
}

#
# Locks that are held meanwhile
#

install_step(@changes);
$database = create($newest);

my ($holder, $waiter) = map { session($node, database => $database) } 1 .. 2;
my $token = $holder->query("SELECT pglock.acquire('k'), pglock.acquire('k'), pglock.token('k')") =~ /^t\|t\|(\d+)$/ ? $1 : 0;

cmp_ok($token, '>', 0, 'a lock is held, and has a token');
start_waiting($waiter, "SELECT pglock.acquire('k')");
wait_for_waiter($node);
update($database, $next);
is($holder->query("SELECT pglock.is_held('k'), depth, token FROM pglock.locks WHERE granted"),
	"t|2|$token", 'updated: it is held as before');
is($node->safe_psql($database, "SELECT pglock.try('k'), pglock.is_free('k')"), 'f|f', '... and excludes others');
is($holder->query("SELECT pglock.release('k'), pglock.release('k'), pglock.held('k')"), 't|t|f', '... until it is released');
is(finish_waiting($waiter), '00000', '... and whoever has waited gets it');
cmp_ok($waiter->query("SELECT pglock.token('k')"), '>', $token, '... with a greater token');
end_session($holder, $waiter);

# A function that the library does not have, since it is the older one: nothing of the script stays
$database = create($newest);
install_step(@changes, "CREATE FUNCTION new() RETURNS boolean AS 'MODULE_PATHNAME', 'pglock_new' LANGUAGE C");

my $before = describe_extension($node, $database);
my $stderr;

$node->psql($database, "ALTER EXTENSION postgres_lock UPDATE TO '$next'", stderr => \$stderr);
like($stderr, qr/ERROR:  could not find function "pglock_new"/, 'a new script with an old library is an error');
is_deeply(describe_extension($node, $database), $before, '... and the extension is as it was');

#
# A library and an extension of different versions
#

my $warning = qr/^WARNING:  extension "postgres_lock" is at version \Q$newest\E, but its library is at version \Q$next\E
HINT:  Run ALTER EXTENSION postgres_lock UPDATE\. .*restart the server.*$/m;

# What a new session says to these statements, beside their answers.
sub complaints
{
	my ($sql) = @_;

	$node->psql($database, $sql, stderr => \$stderr);
	return $stderr =~ s/^psql:<stdin>:\d+: //mgr;
}

is(complaints("SELECT pglock.try('k')"), '', 'of one version: no complaint');
$installation->install_library(PgInstallation::build_library("$folder/next", $next));
install_step(@changes);
$installation->set_default_version($next);
like(complaints("SELECT pglock.try('k'), pglock.token('k') > 0"), qr/\A$warning\z/, 'a newer library works, and warns');
like(complaints("CALL pglock.lock('k')"), qr/\A$warning\z/, '... also in a procedure');
like(complaints('SELECT FROM pglock.locks; SELECT FROM pglock.contention'), qr/\A$warning\z/, '... once in a session');
like(complaints("SET parallel_setup_cost = 0; SET min_parallel_table_scan_size = 0; SET parallel_leader_participation = off;
	SELECT count(pglock.lock_id(oid::bigint)) FROM pg_class; SELECT pglock.try('k')"),
	qr/\A$warning\z/, '... not in each of its workers');
is(complaints("SET pglock.warnings = off; SELECT pglock.try('k')"), '', '... but not with warnings off');
$node->safe_psql($database, 'ALTER EXTENSION postgres_lock UPDATE');
is(complaints("SELECT pglock.try('k'), pglock.is_held('k')"), '', 'done as it says: no complaint');
$node->safe_psql($database, 'DROP EXTENSION postgres_lock');
is(complaints("CREATE FUNCTION is_held(text) RETURNS boolean AS 'postgres_lock', 'pglock_held_text' LANGUAGE C;
	SELECT is_held('k')"), '', '... nor without the extension');

stop_and_check_log($node);
done_testing();
