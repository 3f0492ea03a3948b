# pg_upgrade takes the extension along: what belongs to it, who may use it, the bound of its tokens, and
# the leases.
#
# From the PostgreSQL that is tested to itself, and from those in the folders of UPGRADE_FROM, which have the
# extension, too: /usr/lib/postgresql/15.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

# Far ahead of the clock, which would hide what was forgotten.
use constant FAR => 8_000_000_000_000_000;

# checksums are the default since PostgreSQL 18, and both have to have them
my @initdb = ('--locale=C', '--encoding=UTF8', '--data-checksums');

# The token that a new session draws in a hold of its own.
sub draw
{
	my ($node, $database) = @_;
	my $output = $node->safe_psql($database, "SELECT pglock.acquire('k'), pglock.token('k'), pglock.release('k')");

	return $output =~ /^t\|(\d+)\|t$/ ? $1 : die "no token: $output";
}

sub upgrade
{
	my ($install_path) = @_;
	my $old = new_server('old', install_path => $install_path, init => { extra => \@initdb });
	my $title = 'from ' . $old->pg_version . ' to ';

	$old->safe_psql('postgres', <<'END');
CREATE ROLE app LOGIN;
CREATE DATABASE changed;
\c changed
CREATE EXTENSION postgres_lock;
REVOKE EXECUTE ON FUNCTION pglock.release_all() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pglock.release_all() TO app;
END
	$old->safe_psql('changed', "SELECT setval('pglock.tokens', " . FAR . ')');

	my $lease = $old->safe_psql('postgres', "SELECT pglock.acquire_lease('kept', '1h', holder => 'me')");
	my %last = map { $_ => draw($old, $_) } 'postgres', 'changed';

	$old->stop;

	my $new = PostgreSQL::Test::Cluster->new('new');

	$new->init(extra => \@initdb);
	$title .= $new->pg_version;
	# it makes files where it is run
	chdir PostgreSQL::Test::Utils::tempdir() or die $!;
	command_ok(
		[
			'pg_upgrade', '--no-sync', '-d', $old->data_dir, '-D', $new->data_dir,
			'-b', $old->config_data('--bindir'), '-B', $new->config_data('--bindir'),
			'-s', $new->host, '-p', $old->port, '-P', $new->port
		],
		"$title: pg_upgrade");
	chdir $FindBin::RealBin;
	$new->start;
	foreach my $database ('postgres', 'changed')
	{
		cmp_ok(draw($new, $database), '>', $last{$database}, "$title: the next token is greater, in $database");
	}
	is($new->safe_psql('postgres', "SELECT pglock.holds_lease('kept', $lease), holder, pglock.try_lease('kept') IS NULL,
		pglock.renew_lease('kept', $lease), pglock.release_lease('kept', $lease) FROM pglock.leases"), 't|me|t|t|t', '... a lease is still held');
	is($new->safe_psql('changed', "SELECT has_function_privilege('app', 'pglock.release_all()', 'execute'),
		has_function_privilege('pg_monitor', 'pglock.release_all()', 'execute')"), 't|f', '... privileges are those that were given');
	$new->safe_psql('postgres', "CREATE DATABASE fresh");
	$new->safe_psql('fresh', 'CREATE EXTENSION postgres_lock');
	is_deeply(describe_extension($new), describe_extension($new, 'fresh'), '... and otherwise all is as if it had been created there');
	is_crash_free($old);
	stop_and_check_log($new);
	$_->clean_node foreach $old, $new;
	return;
}

upgrade($_) foreach undef, split ' ', $ENV{UPGRADE_FROM} // '';
done_testing();
