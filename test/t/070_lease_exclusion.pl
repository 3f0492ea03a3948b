# A lease has one holder at a time, and that holds for the writes of those who doze past its end and go on.
#
# The controls show both races: without check_lease, and with a fencing token in its place, updates are lost;
# and where a takeover does not claim the lease first, renewals that have answered true are overtaken.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run;
use PgInstallation;
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

use constant {
	CLIENTS => 8,
	ROUNDS => 40,    # of each client in one batch
	MOST_BATCHES => 10,
	STALL => 1000,   # microseconds
	RENEWALS => 300,
};

my $folder = PostgreSQL::Test::Utils::tempdir();
my $installation = PgInstallation->new("$folder/installation");
my $node = new_server('lease_exclusion', install_path => $installation->install_path, conf => "fsync = off\n");

#
# Read, doze, write
#

$node->safe_psql('postgres', <<'END_OF_SQL');
CREATE TABLE counter (value int, token bigint);
CREATE TABLE written (token bigint);
END_OF_SQL

# Clients add to a counter under a lease, a part of them after it has ended. `check`: what they do in the
# transaction that writes; `fence`: under which condition they write. Returns how many have written, how many
# of those additions were lost, and how often each error came.
sub additions
{
	my ($check, $fence) = @_;
	my %errors;

	$node->safe_psql('postgres', 'TRUNCATE counter, written; INSERT INTO counter VALUES (0, 0)');

	my @outputs = run_psqls($node, <<"END_OF_SQL" x ROUNDS, CLIENTS, errors => 1);
\\set VERBOSITY sqlstate
SELECT pglock.acquire_lease('counter', ttl => '20ms') AS token \\gset
SELECT value AS value FROM counter \\gset
SELECT pg_sleep(random() * 0.04) AS dozed \\gset
BEGIN;
$check
WITH writes AS (UPDATE counter SET value = :value + 1, token = :token WHERE $fence RETURNING token)
INSERT INTO written SELECT token FROM writes;
COMMIT;
SELECT pglock.release_lease('counter', :token) AS released \\gset
END_OF_SQL

	$errors{$_}++ foreach join('', @outputs) =~ /ERROR: +(.*)/g;
	return (split(/\|/, $node->safe_psql('postgres', 'SELECT (SELECT count(*) FROM written), (SELECT count(*) FROM written) - value FROM counter')), \%errors);
}

my %controls = ('no protection' => 'true', 'the token in the WHERE' => 'token <= :token');

foreach my $control (sort keys %controls)
{
	my ($writes, $lost, $errors);

	foreach (1 .. MOST_BATCHES)
	{
		($writes, $lost, $errors) = additions('', $controls{$control});
		last if $lost > 0;
	}
	cmp_ok($lost, '>', 0, "control: $control: additions are lost, of $writes");
	is_deeply($errors, {}, '... without an error');
}

my ($writes, $lost, $errors) = additions("SELECT pglock.check_lease('counter', :token);", 'true');
my $refused = delete $errors->{55000};

is($lost, 0, "check_lease: none of $writes is lost");
cmp_ok($writes, '>', 0, '... by those who held the lease');
cmp_ok($refused, '>', 0, '... and those who did not are refused');
# in the block that has failed
is_deeply($errors, { '25P02' => $refused }, '... by no other error');

#
# Renewals and takeovers
#

$node->safe_psql('postgres', <<'END_OF_SQL');
CREATE TABLE taken (token bigint, at timestamptz);
CREATE TABLE renewed (token bigint, begun timestamptz);

-- Takes the lease whenever it is to be had, and renews it about its end.
CREATE PROCEDURE take_and_renew(seconds float) LANGUAGE plpgsql AS $$
DECLARE
	ttl constant float := 0.005;
	until constant timestamptz := clock_timestamp() + make_interval(secs => seconds);
	token bigint;
	begun timestamptz;
BEGIN
	WHILE clock_timestamp() < until LOOP
		token := pglock.acquire_lease('raced', make_interval(secs => ttl), '20ms');
		INSERT INTO taken SELECT token, clock_timestamp() WHERE token IS NOT NULL;
		COMMIT;
		WHILE token IS NOT NULL AND random() < 0.8 LOOP
			PERFORM pg_sleep(ttl * (0.8 + random() * 0.4));
			begun := clock_timestamp();
			EXIT WHEN NOT pglock.renew_lease('raced', token);
			INSERT INTO renewed VALUES (token, begun);
			COMMIT;
		END LOOP;
		COMMIT;
	END LOOP;
END $$;
END_OF_SQL

# Installs a library that stalls where a takeover decides. `changes`: what else is other about it.
sub install_library
{
	my ($name, %changes) = @_;

	%changes = (
		qr/(?=\tbool is_claimed = change)/ => "\tpg_usleep(@{[ STALL ]});\n",
		qr/(?<=\tif \(is_claimed\)\n)(?=\t\tremove\(lease\);)/ => "\t\tpg_usleep(@{[ STALL ]}),\n",
		%changes);

	my $library = PgInstallation::build_library(
		"$folder/$name", undef,
		'src/server/lease_rows.cpp' => sub {
			my ($code) = @_;

			foreach my $place (keys %changes)
			{
				$code =~ s/$place/$changes{$place}/ or die "$place is not there";
			}
			return $code;
		});

	$installation->install_library($library);
	return;
}

# How many renewals answered true, how many leases were taken over, and how many renewals were overtaken:
# another had the lease before it was over.
sub race
{
	$node->safe_psql('postgres', 'TRUNCATE taken, renewed');

	my @outputs = run_psqls($node, 'CALL take_and_renew(3)', CLIENTS, errors => 1);

	is(join('', @outputs), '', 'no errors');
	return split /\|/, $node->safe_psql('postgres', <<'END_OF_SQL');
SELECT (SELECT count(*) FROM renewed), (SELECT count(*) FROM taken),
	(SELECT count(*) FROM renewed WHERE EXISTS (SELECT FROM taken
		WHERE taken.token > renewed.token AND taken.at < renewed.begun + '5 ms'))
END_OF_SQL
}

my %mutants = (
	'does not look again' => [ 'no_look', qr/if \(!is_over\(row, argument\)\)/ => 'if (!is_over(lease.row, argument))' ],
	'does not claim the lease' => [ 'no_claim', qr/\t\trow\.expires = 0;\n/ => '' ]);

foreach my $mutant (sort keys %mutants)
{
	my ($renewals, $takeovers, $overtaken);

	install_library(@{ $mutants{$mutant} });
	foreach (1 .. MOST_BATCHES)
	{
		($renewals, $takeovers, $overtaken) = race();
		last if $overtaken > 0;
	}
	cmp_ok($overtaken, '>', 0, "control: a takeover that $mutant: renewals are overtaken, of $renewals, by $takeovers leases");
}

install_library('stalling');

my ($renewals, $takeovers, $overtaken) = (0, 0, 0);

foreach (1 .. MOST_BATCHES)
{
	my @more = race();

	$renewals += $more[0];
	$takeovers += $more[1];
	$overtaken += $more[2];
	last if $renewals >= RENEWALS && $takeovers >= RENEWALS;
}
is($overtaken, 0, "none of $renewals renewals is overtaken");
cmp_ok($renewals, '>=', RENEWALS, '... many answered true');
cmp_ok($takeovers, '>=', RENEWALS, "... and $takeovers leases were taken");

stop_and_check_log($node);
done_testing();
