# Fencing tokens grow over failovers that lose the end of the log, whatever the clocks of the servers say.
#
# The old primary goes on after its standbys were cut off, so what it draws then is lost. Each case has two
# standbys: tokens grow on one of them, and on the other, which lacks a part of the rule, they do not.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgInstallation;
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;
use WallClock;

use constant {
	MARGIN => 60,     # seconds: the default
	LOST => 40,       # less than that
	BEHIND => 300,    # more
	HOUR => 3600,
	MICROSECONDS => 1_000_000,
	CLIENTS => 8,
};

my $now = '(extract(epoch FROM clock_timestamp()) * 1000000)::bigint';
my $folder = PostgreSQL::Test::Utils::tempdir();
my $installation = PgInstallation->new("$folder/installation");
my %clocks;    # of each server, by its name
my %ahead;     # by how many seconds

sub set_clock
{
	my ($node, $seconds) = @_;

	$ahead{ $node->name } = $seconds;
	$clocks{ $node->name }->set($seconds);
	return;
}

# Time passes, for that server.
sub let_pass
{
	my ($node, $seconds) = @_;

	set_clock($node, $ahead{ $node->name } + $seconds);
	return;
}

# Does what starts the server of that name.
sub with_clock
{
	my ($name, $action) = @_;

	$ahead{$name} //= 0;
	$clocks{$name} //= WallClock->new;
	return $clocks{$name}->with($action);
}

sub restart
{
	my ($node) = @_;

	with_clock($node->name, sub { $node->restart });
	return;
}

# The token that a new session draws in a hold of its own.
sub draw
{
	my ($node) = @_;
	my $output = $node->safe_psql('postgres', "SELECT pglock.acquire('k'), pglock.token('k'), pglock.release('k')");

	return $output =~ /^t\|(\d+)\|t$/ ? $1 : die "no token: $output";
}

sub recreate
{
	my ($node) = @_;

	$node->safe_psql('postgres', 'DROP EXTENSION postgres_lock; CREATE EXTENSION postgres_lock');
	return;
}

my $commits = 0;

sub commit
{
	my ($node) = @_;

	$commits++;
	$node->safe_psql('postgres', "CREATE TABLE commit_$commits ()");
	return;
}

# Begins with a backup of the primary, and follows the server `of`, which may be a standby itself. What a backup becomes
# must not put its own timeline into the primary's archive, from which others are restored.
my $primary;
my $not_archiving = "archive_mode = off\n";

sub new_standby
{
	my ($name, $of, $conf) = @_;
	my $standby = PostgreSQL::Test::Cluster->new($name, install_path => $installation->install_path);

	$standby->init_from_backup($primary, 'backup', has_streaming => 1);
	$standby->enable_streaming($of);
	$standby->append_conf('postgresql.conf', $not_archiving . ($conf // ''));
	with_clock($name, sub { $standby->start });
	return $standby;
}

sub cut_off
{
	my ($standby) = @_;

	$standby->append_conf('postgresql.conf', "primary_conninfo = ''");
	$standby->reload;
	$standby->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)')
	  or die 'the standby is not cut off';
	return;
}

sub promote
{
	my ($standby) = @_;

	$standby->promote;
	$standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'no promotion';
	return;
}

# Gives all servers that library.
sub install { return $installation->install_library($_[0]); }

# One that lacks a part of the rule
sub control
{
	my ($name, $file, $change) = @_;

	return PgInstallation::build_library("$folder/$name", undef, "src/server/$file.cpp" => $change);
}
my %controls = (
	bound => control('bound', 'token', sub { s/timelines_begun\(\) \* token_clock::margin\(\)/0/r }),
	each => control('each', 'timelines', sub { s/begun\+\+/begun = 1/r }),
	clock => control('clock', 'token_clock', sub { s/margin\(\) == 0 \?/true ?/r }),
	commit => control('commit', 'token_clock', sub { s/return timeline != .*;/return 0;/r }),
	'second margin' => control('second_margin', 'token_clock', sub { s/2 \* margin/margin/r }),
);
my $ours = PgInstallation::build_library("$folder/ours", undef, 'Makefile' => sub { "$_\n" });

sub are_growing
{
	my ($last, @tokens) = @_;

	foreach my $token (@tokens)
	{
		return 0 if $token <= $last;
		$last = $token;
	}
	return 1;
}

# Fails over from the server `of`, which has done what is `known` to its standbys, and then what they have `lost`, to
# one whose clock is `behind`, and to one without the part of the rule that `control` names. Returns the first, on
# which the tokens that are `drawn` grow.
sub check
{
	my ($name, %case) = @_;
	my $of = $case{of} // $primary;
	my $is_off = $case{control} eq 'margin';
	my %standbys = map {
		$_ => new_standby("${name}_$_" =~ s/\W+/_/gr, $of, $_ eq 'control' && $is_off ? 'pglock.token_margin = 0' : undef)
	} 'rule', 'control';

	$case{known}->($of);
	foreach my $standby (values %standbys)
	{
		$of->wait_for_catchup($standby);
		cut_off($standby);
	}

	my $last = ($case{lost} // \&lose)->($of);

	foreach my $which ('rule', 'control')
	{
		my $standby = $standbys{$which};

		install($controls{ $case{control} }) if $which eq 'control' && !$is_off;
		set_clock($standby, $ahead{ $of->name } - ($case{behind} // BEHIND));
		promote($standby);

		my @tokens = ($case{drawn} // \&draw)->($standby);

		note join ' ', $last, @tokens;
		is(are_growing($last, @tokens), $which eq 'rule' ? 1 : 0,
			$which eq 'rule' ? "$name: tokens grow" : "control: not without the $case{control}");
		install($ours);
	}
	stop_and_check_log($standbys{control});
	return $standbys{rule};
}

# Time passes, and another token is drawn.
sub lose
{
	my ($node) = @_;

	let_pass($node, LOST);
	return draw($node);
}

install($ours);
$primary = with_clock(
	'primary',
	sub {
		new_server('primary', install_path => $installation->install_path, conf => "autovacuum = off\n",
			init => { allows_streaming => 1, has_archiving => 1 });
	});
$primary->backup('backup');

#
# Clocks that are far behind
#

my $promoted = check('far behind', known => sub { draw($_[0]) }, control => 'margin');

# The first draw of a timeline is logged, and no other, whoever draws.
my $jump = qr/LOG: .*fencing tokens of database "postgres" go on \d+\.\d s ahead of the clock/;

sub jumps_logged { return scalar(() = slurp_file($_[0]->logfile) =~ /$jump/g); }

restart($promoted);
draw($promoted);
is(jumps_logged($promoted), 1, 'the log has it once');
stop_and_check_log($promoted);

stop_and_check_log(check('far behind, the last commit long ago', control => 'bound', known => sub {
		my ($node) = @_;

		let_pass($node, HOUR);
		draw($node);
	}));

sub know_commit
{
	my ($node) = @_;

	draw($node);
	let_pass($node, HOUR);
	commit($node);
	return;
}

stop_and_check_log(check('far behind, the last token long ago', control => 'commit', known => \&know_commit));

stop_and_check_log(check('far behind, created again', control => 'commit', known => \&know_commit, drawn => sub {
		my ($node) = @_;

		recreate($node);
		return draw($node);
	}));

stop_and_check_log(check('far behind, the last commit a while ago, created again', control => 'second margin', known => sub {
		my ($node) = @_;

		commit($node);
		let_pass($node, LOST);
		draw($node);
	}, drawn => sub {
		my ($node) = @_;
		my $token = draw($node);

		recreate($node);
		return ($token, draw($node));
	}));

stop_and_check_log(check('far behind, drawn, created again, and again', control => 'clock', known => \&know_commit, drawn => sub {
		my ($node) = @_;

		return map { my $token = draw($node); recreate($node); $token } 1 .. 3;
	}));

#
# Clocks that are behind by less than the margin, or right
#

stop_and_check_log(check('behind, the last token long ago, restarted', behind => 50, control => 'clock', known => \&know_commit, drawn => sub {
		my ($node) = @_;

		restart($node);
		return draw($node);
	}));

$promoted = check('in time, created again, and again', behind => 0, control => 'clock', known => sub { draw($_[0]) }, drawn => sub {
		my ($node) = @_;

		return map { my $token = draw($node); recreate($node); restart($node); $token } 1 .. 3;
	});

# After a while the clock is the wall clock again.
my ($history) = glob($promoted->data_dir . '/pg_wal/*2.history');

utime time - HOUR, time - HOUR, $history or die "$history: $!";
recreate($promoted);

my ($token, $time) = split /\|/, $promoted->safe_psql('postgres', "SELECT pglock.token('k'), $now FROM pglock.acquire('k')");

cmp_ok($token, '<=', $time, 'long after a promotion a new sequence is not ahead of the clock');
stop_and_check_log($promoted);

#
# Two promotions in turn
#

# The second server that is promoted has heard of the first one's promotion, but not of its tokens.
my $second = new_standby('second', $primary);

commit($primary);
let_pass($primary, 100);
draw($primary);
$primary->wait_for_catchup($second);
cut_off($second);
set_clock($second, $ahead{primary} - BEHIND);
my $last = lose($primary);

stop_and_check_log(check('promoted in turn', of => $second, behind => 0, control => 'each',
	known => sub { promote($_[0]) }, lost => sub { draw($_[0]) }));
cmp_ok(draw($second), '>', $last, '... and on the one before');
stop_and_check_log($second);

# It has not even heard of that.
my @in_turn = map { new_standby($_, $primary) } 'turn_1', 'turn_2', 'control_1', 'control_2';

draw($primary);
foreach my $standby (@in_turn)
{
	$primary->wait_for_catchup($standby);
	cut_off($standby);
}
$last = lose($primary);
foreach my $which ('rule', 'control')
{
	my @tokens;

	install($controls{clock}) if $which eq 'control';
	foreach (1 .. 2)
	{
		my $standby = shift @in_turn;

		set_clock($standby, $ahead{primary});
		promote($standby);
		push @tokens, draw($standby);
		stop_and_check_log($standby);
	}
	note join ' ', $last, @tokens;
	is(are_growing($last, @tokens), $which eq 'rule' ? 1 : 0,
		$which eq 'rule' ? 'two standbys, in turn: tokens grow' : 'control: not by the wall clock');
}
install($ours);

# A server whose clock is ahead is followed by one whose clock is right.
$second = new_standby('ahead', $primary);
draw($primary);
$primary->wait_for_catchup($second);
cut_off($second);
$last = lose($primary);
set_clock($second, $ahead{primary} + BEHIND);
promote($second);
$token = draw($second);
cmp_ok($token, '>', $last, 'promoted, with a clock that is ahead: the next token is greater');
stop_and_check_log(check('after a clock that was ahead', of => $second, control => 'margin', known => sub { draw($_[0]) }));
stop_and_check_log($second);

#
# Many draw first
#

$second = new_standby('many', $primary);
draw($primary);
$primary->wait_for_catchup($second);
cut_off($second);
$last = lose($primary);
set_clock($second, $ahead{primary} - BEHIND);
promote($second);
$second->safe_psql('postgres', 'CREATE TABLE drawn (token bigint)');
append_to_file("$folder/draw.sql",
	"INSERT INTO drawn SELECT pglock.token(:client_id) FROM pglock.acquire(:client_id);\nSELECT pglock.release(:client_id);\n");
$second->command_ok([ 'pgbench', '-n', '-c', CLIENTS, '-j', 2, '-t', 5, '-f', "$folder/draw.sql", 'postgres' ], 'many draw');
is( $second->safe_psql('postgres', "SELECT count(DISTINCT token), min(token) > $last,
		max(token) - min(token) < @{[ MARGIN * MICROSECONDS ]} FROM drawn"),
	CLIENTS * 5 . '|t|t', '... tokens that grow, by the margin once');
is(jumps_logged($second), 1, '... the first is logged');
$last = draw($second);
$second->stop('immediate');
with_clock('many', sub { $second->start });
$token = draw($second);
cmp_ok($token, '>', $last, 'a crash after that: the next token is greater');
cmp_ok($token, '<', $last + 3 * MICROSECONDS, '... by no margin');
stop_and_check_log($second);

#
# Recovery to a point in time
#

draw($primary);

my $point = $primary->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');

commit($primary);
$last = lose($primary);
$primary->safe_psql('postgres', 'SELECT pg_switch_wal()');

my $archived = $primary->safe_psql('postgres', "SELECT pg_walfile_name('$point')");

$primary->poll_query_until('postgres', "SELECT last_archived_wal >= '$archived' FROM pg_stat_archiver") or die 'not archived';
foreach my $margin (MARGIN, 0)
{
	my $restored = PostgreSQL::Test::Cluster->new("restored_$margin", install_path => $installation->install_path);

	$restored->init_from_backup($primary, 'backup', has_restoring => 1, standby => 0);
	$restored->append_conf('postgresql.conf', "${not_archiving}recovery_target_lsn = '$point'\nrecovery_target_action = promote\n"
		  . "pglock.token_margin = $margin");
	with_clock($restored->name, sub { $restored->start });
	set_clock($restored, $ahead{primary} - BEHIND);
	$restored->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'no end of recovery';
	is(are_growing($last, draw($restored)), $margin ? 1 : 0,
		$margin ? 'recovered to a point in time: tokens grow' : 'control: not without a margin');
	stop_and_check_log($restored);
}
is_deeply([ glob($primary->archive_dir . '/*.history') ], [], 'the archive is of one timeline');

stop_and_check_log($primary);
done_testing();
