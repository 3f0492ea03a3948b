# Two versions of the library in one running server, as after the upgrade of a package: the sessions that
# were there keep the old one. Whatever they publish their locks exclude each other, and their tokens grow.
# What one would misread of the other's shared memory it does not read.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgInstallation;
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

use constant FAR => 8_000_000_000_000_000;

my $folder = PostgreSQL::Test::Utils::tempdir();
my $installation = PgInstallation->new($folder);
my $node = new_server('two_libraries', install_path => $installation->install_path);
# before, sessions publish only what is their own business: whatever the library, they have no registry
my $has_segments = $node->pg_version >= 17 ? 1 : 0;
my $log_start;

# What a session sees published: the key, the depth and the session of each lock but its own
my $others = 'SELECT key, depth, pid FROM pglock.locks WHERE pid <> pg_backend_pid() ORDER BY pid, lock_id';

sub pid { return $_[0]->query('SELECT pg_backend_pid()'); }

# A row for each session, as $others sorts them: of a lock of which nothing is published, or of [session, what is].
sub rows
{
	my @rows = map { ref $_ eq 'ARRAY' ? [ scalar pid($_->[0]), $_->[1] ] : [ scalar pid($_), '||' ] } @_;

	return join "\n", map { "$_->[1]$_->[0]" } sort { $a->[0] <=> $b->[0] } @rows;
}

# How often the log has that since $log_start.
sub logged
{
	my ($pattern) = @_;

	return scalar(() = slurp_file($node->logfile, $log_start) =~ /$pattern/g);
}

my $old = session($node);

is($old->query("SELECT pglock.acquire('old'), pglock.acquire('old')"), 't|t', 'the old library: a lock is held');

# One whose records are larger, though nobody said that the layout is another
my $library = PgInstallation::build_library("$folder/next", '99.0',
	'src/server/registry.hpp' => sub { s/^(\tbool has_name;)$/\tint64 is_new;\n$1/mr });

$installation->install_library($library);

my $forgotten = session($node);
$log_start = -s $node->logfile;

is($forgotten->query("SELECT pglock.try('old'), pglock.acquire('forgotten')"), 'f|t', 'a library that forgot: they exclude each other');
is($forgotten->query('SELECT pglock.registry_size()'), '', '... but it has no registry');
is($forgotten->query($others), '||' . pid($old), '... nor sees what was published');
is($old->query($others), '||' . pid($forgotten), '... nor is seen');
is(logged(qr/LOG:  postgres_lock cannot publish all of its locks: .*size/), $has_segments, '... and the log says why');

# One that says so
$installation->install_library(PgInstallation::build_library_again("$folder/next", '-DPGLOCK_LAYOUT=99', 'shared'));
$log_start = -s $node->logfile;

my ($new, $newest) = map { session($node) } 1 .. 2;

is($new->query("SELECT pglock.try('old'), pglock.try('forgotten'), pglock.acquire('new'), pglock.acquire('new')"),
	'f|f|t|t', 'a new library: they exclude each other');
is($old->query("SELECT pglock.try('new')"), 'f', '... both ways');
is($new->query($others), rows($old, $forgotten), '... does not see what others published');
is($newest->query($others), rows($old, $forgotten, $has_segments ? [ $new, 'new|2|' ] : $new),
	'... but what sessions with the same do, where there is a registry');
is($old->query($others), rows($forgotten, $new), '... nor do they see it');
is(logged(qr/LOG:  sessions with two versions of the library of postgres_lock are running/), $has_segments, '... and the log says so, once');

# Waits are counted by each
start_waiting($old, "SELECT pglock.acquire('new')");
wait_for_waiter($node);
is($new->query("SELECT pglock.release('new'), pglock.release('new')"), 't|t', 'one with the new library releases');
is(finish_waiting($old), '00000', '... and one with the old gets it');
is($old->query('SELECT key, waits FROM pglock.contention'), $has_segments ? 'new|1' : '', '... which counts the wait');
is($new->query('SELECT count(*) FROM pglock.contention'), '0', '... the other does not');

# Leases are in the database, and their queue in the lock manager
my $token = $old->query("SELECT pglock.acquire_lease('lease', '1 hour')");

is($new->query("SELECT pglock.try_lease('lease') IS NULL, pglock.renew_lease('lease', $token)"), 't|t',
	'a lease is one, whatever the library');
start_waiting($old, "SELECT pglock.acquire_lease('lease')");
# nothing may be asked of this library here: it warns of its version
$node->poll_query_until('postgres', 'SELECT count(*) = 1 FROM pg_locks WHERE locktype = \'advisory\' AND objsubid = 4')
  or die 'nobody waits for the lease';
is($new->query("SELECT pglock.release_lease('lease', $token)"), 't', 'one with the new library releases it');
is(finish_waiting($old), '00000', '... and one with the old is woken');

# Tokens are drawn from one sequence, also ahead of the clock, which would hide what one made of it
$node->safe_psql('postgres', "SELECT setval('pglock.tokens', " . FAR . ')');

my @drawn = map { scalar $_->query("SELECT pglock.acquire('t'), pglock.token('t'), pglock.release('t')") }
  ($old, $new, $forgotten, $newest, $new, $old);

is_deeply(\@drawn, [ map { 't|' . (FAR + $_) . '|t' } 1 .. 6 ], 'tokens grow, whoever draws them');
end_session($old, $forgotten, $new, $newest);
stop_and_check_log($node);

# Where the server has preloaded the library, all its sessions have that one until it is restarted
$installation = PgInstallation->new("$folder/preloaded");
$node = new_server('preloaded', install_path => $installation->install_path, conf => "shared_preload_libraries = 'postgres_lock'\n");
$old = session($node);
$old->query("SELECT pglock.acquire('old')");
$installation->install_library($library);

my $stderr;

is($node->safe_psql('postgres', $others), 'old|1|' . pid($old), 'preloaded: new sessions have the old library');
end_session($old);
$node->psql('postgres', $others, stderr => \$stderr);
is($stderr, '', '... which is of the version of the extension');
$node->restart;
$node->psql('postgres', $others, stderr => \$stderr);
like($stderr, qr/WARNING:  extension "postgres_lock" is at version .*, but its library is at version 99\.0/, 'restarted: they have the new one');
stop_and_check_log($node);
done_testing();
