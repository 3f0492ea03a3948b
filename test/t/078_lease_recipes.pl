# The recipes for leases of docs/drivers.md: each takes a lease, renews it, says when it may not be held any more, and
# releases it. All do the same at the same time, each with a key of its own, the name of its driver.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Drivers;
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_driver_server('lease_recipes');

$node->safe_psql('postgres', 'CREATE TABLE written (key text); CREATE TABLE orders (id int, state text)');

my %workers = start_lease_workers();
my @names = sort keys %workers;
# the tokens of the workers' leases, and of those of another
my (%token, %other);

# nobody stays behind stopped
END
{
	$_->go_on foreach values %workers;
}

foreach my $name (@names)
{
	$node->safe_psql('postgres', "DELETE FROM orders; INSERT INTO orders VALUES (42, 'new'), (43, 'new')");
	is($workers{$name}->ask('example'), 'done', "$name: the example ends");
	is(value("SELECT string_agg(state, ' ') FROM orders"), 'paid paid', '... when it has done its work');
	is(value('SELECT count(*) FROM pglock.leases'), 0, '... and released the lease');
}

hold(60_000);
is(value("SELECT token FROM pglock.leases WHERE key = '$_'"), $token{$_}, "$_ holds the lease") foreach @names;
send_to($_, 'write', $_, $token{$_}) foreach @names;
answer_all('written', 'a write under the lease');
leave();
is(value('SELECT count(*) FROM pglock.leases'), 0, 'no lease is left');

take_over($_) foreach @names;
send_to($_, 'lease', $_, 60_000, 10) foreach @names;
answer_all("error\t55P03", 'the timeout passes while another holds the lease');
give_back($_) foreach @names;

hold(9_000);
foreach my $name (@names)
{
	ok( $node->poll_query_until(
			'postgres', "SELECT renewed_at - acquired_at > ttl FROM pglock.leases WHERE token = $token{$name}"),
		"$name renews the lease, which lasts for longer than its ttl");
}
leave();

# a holder is stopped for longer than the ttl, and another takes the lease over
hold(1_000);
send_to($_, 'lose') foreach @names;
$_->pause foreach values %workers;
take_over($_) foreach @names;
$_->go_on foreach values %workers;
answer_all('lost', 'the holder notices when it goes on');
send_to($_, 'write', $_, $token{$_}) foreach @names;
answer_all("error\t55000", 'its late write is refused');
is(value('SELECT count(*) FROM written'), scalar @names, 'nothing was written late');
give_back($_) foreach @names;

hold(3_000);
send_to($_, 'lose') foreach @names;
is(value("SELECT pglock.revoke_lease('$_')"), 1, "the lease of $_ is revoked") foreach @names;
answer_all('lost', 'the holder notices that');

hold(3_000);
rename_renewal('renew_lease', 'no_renewal');
send_to($_, 'lose') foreach @names;
answer_all('lost', 'the holder stops when it cannot renew');
rename_renewal('no_renewal', 'renew_lease');

# The answer to a renewal comes when the lease has expired: its time counts from when the renewal was sent.
rename_renewal('renew_lease', 'prompt_renewal');
$node->safe_psql('postgres', <<'END');
CREATE TABLE renewals (renewed text);
CREATE FUNCTION pglock.renew_lease(key text, token bigint, ttl interval = NULL) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	renewed boolean := pglock.prompt_renewal(key, token, ttl);
BEGIN
	INSERT INTO renewals VALUES (key);
	PERFORM pglock.acquire('answers', shared => true, scope => 'transaction');
	RETURN renewed;
END $$;
END
my $answers = start_worker('psql');
ok($answers->is_ready, 'one who holds up answers');
$answers->take('answers');
foreach my $name (@names)
{
	send_to($name, 'lease', $name, 6_000, '');
	send_to($name, 'lose');
}
ok( $node->poll_query_until(
		'postgres', "SELECT count(*) = ${\ scalar @names} FROM pglock.locks WHERE key = 'answers' AND NOT granted"),
	'all have renewed their leases');
take_over($_) foreach @names;
$answers->leave;
like($workers{$_}->answer, qr/^held/, "$_ has a late answer") foreach @names;
answer_all('lost', 'and knows that it is late');
is(value("SELECT count(*) FROM renewals WHERE renewed = '$_'"), 1, "$_ need not ask for that") foreach @names;
give_back($_) foreach @names;

# Each takes its lease; their tokens are noted.
sub hold
{
	my ($ttl) = @_;

	send_to($_, 'lease', $_, $ttl, '') foreach @names;
	foreach my $name (@names)
	{
		my $answer = $workers{$name}->answer;

		like($answer, qr/^held\t\d+$/, "$name takes a lease for $ttl ms");
		($token{$name}) = $answer =~ /(\d*)$/;
	}
	return;
}

sub leave
{
	send_to($_, 'end') foreach @names;
	answer_all('released', 'the block ends');
	return;
}

sub send_to
{
	my ($name, @words) = @_;

	$workers{$name}->send_command(@words);
	return;
}

sub answer_all
{
	my ($answer, $description) = @_;

	is($workers{$_}->answer, $answer, "$_: $description") foreach @names;
	return;
}

# Another takes the lease of this name, when it is free.
sub take_over
{
	my ($name) = @_;

	$other{$name} = value("SELECT pglock.acquire_lease('$name', ttl => '1h')");
	cmp_ok($other{$name}, '>', $token{$name}, "another takes the lease of $name");
	return;
}

# ... and still has it, whatever the worker has done
sub give_back
{
	my ($name) = @_;

	is(value("SELECT pglock.release_lease('$name', $other{$name})"), 't', "... and releases that of $name");
	return;
}

sub rename_renewal
{
	my ($old, $new) = @_;

	$node->safe_psql('postgres',
		join ' ', map { "ALTER FUNCTION pglock.$old($_, bigint, interval) RENAME TO $new;" } qw(text bigint uuid));
	return;
}

sub value
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# of a wait with a snapshot, and the like
unlike(slurp_file($node->logfile), qr/WARNING/, 'no recipe is warned of anything');
stop_workers(values %workers, $answers);
stop_and_check_log($node);
done_testing();
