# What the documents show works, in the order in which a reader meets it, and what they name exists.
#
# Each document has a database. Every ```sql block runs in a session of its own. No statement may fail or
# warn. In a block with values in comments those are all of its answers: one value a row, "; -- t|1: and why".
# A ```console block is a whole session: what is typed, what is answered, and what went wrong. A `SELECT` or `CALL`
# of ours in a sentence or a table runs, too, unless it has a parameter, is cut short, or is the bare `CALL pglock.lock()`.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Docs;
use File::Basename 'dirname';
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = "$FindBin::RealBin/../..";
my %text_of = map { $_ => document($_) } documents();
my $everything = join "\n", map { $text_of{$_} } documents();
# the settings that are recommended are some that the server knows
my $node = new_server('documentation', extension => 0, conf => join '', examples($everything, 'ini'));

# Runs a ```sql block.
sub runs
{
	my ($database, $block) = @_;
	my ($title) = $block =~ /^(.*?)(?: *--.*)?$/m;
	my @values = $block =~ /; *-- (\S.*?)(?:: .*)?$/mg;
	my ($stdout, $stderr);

	# what the block makes or updates must not be there already
	$node->safe_psql($database, 'DROP EXTENSION postgres_lock') if $block =~ /^(?:CREATE|ALTER) EXTENSION postgres_lock\b/m;
	$node->safe_psql($database, "CREATE EXTENSION postgres_lock VERSION '1.0'") if $block =~ /^ALTER EXTENSION postgres_lock\b/m;

	my $status = $node->psql($database, $block,
		on_error_die => 0, on_error_stop => 1, stdout => \$stdout, stderr => \$stderr);

	is($status, 0, "runs: $title");
	is($stderr, '', "nothing to complain of: $title");
	is($stdout, join("\n", @values), "answers as shown: $title") if @values;
	return scalar @values;
}

# Runs a ```console block.
sub goes_as_shown
{
	my ($database, $session) = @_;
	my @typed = $session =~ /^postgres=# (.*)$/mg;
	my @shown = grep { !/^postgres=# / } split /\n/, $session;
	my ($stdout, $stderr);

	$node->psql($database, join("\n", @typed),
		on_error_die => 0, on_error_stop => 0, stdout => \$stdout, stderr => \$stderr);
	$stderr =~ s/^psql:<stdin>:\d+: //mg;
	is($stdout, join("\n", grep { !/^[A-Z]+: / } @shown), "answers as shown: $typed[0]");
	is($stderr, join("\n", grep { /^[A-Z]+: / } @shown), "complains as shown: $typed[0]");
	return;
}

# Runs a statement that is shown in a sentence, by a session that holds the locks that such statements are about.
sub runs_alone
{
	my ($database, $statement) = @_;
	my ($status, undef, $stderr) = $node->psql($database, "SELECT pglock.acquire('k'), pglock.acquire('x');\n$statement;\n",
		on_error_die => 0, on_error_stop => 1);

	is("$status:" . ($stderr =~ s/^.*(?:WARNING|DETAIL|HINT): .*\n?//mgr), '0:', "runs: $statement");
	return;
}

# The shell's commands are such, and make knows its targets. They are run where nobody minds what they install:
# by .ci/run, and in chroots.
sub is_shell
{
	my ($block) = @_;
	my ($title) = $block =~ /^(.*?)(?: *#.*)?$/m;

	command_ok([ 'sh', '-n', '-c', $block ], "has the syntax of the shell: $title");
	foreach my $target ($block =~ /(?:^|&& )make ([a-z-]+)/mg)
	{
		command_ok([ 'make', '-n', '-C', $root, $target, 'PG_CONFIG=' . ($ENV{PG_CONFIG} // 'pg_config') ],
			"make knows $target");
	}
	return;
}

my $with_values = 0;
my $sessions = 0;
my $alone = 0;

foreach my $document (documents())
{
	my ($database) = $document =~ m,([^/]+)\.md$,;
	my $text = $text_of{$document};

	note("$document:");
	$node->safe_psql('postgres', "CREATE DATABASE \"$database\"");
	$node->safe_psql($database, 'CREATE EXTENSION postgres_lock');
	while ($text =~ /^```(sql|console)\n(.*?)^```$/msg)
	{
		if ($1 eq 'sql')
		{
			$with_values++ if runs($database, $2);
		}
		else
		{
			goes_as_shown($database, $2);
			$sessions++;
		}
	}
	foreach my $statement (without_examples($text) =~ /`((?:SELECT|CALL) [^`\n]*\bpglock\.[^`\n]*)`/g)
	{
		next if $statement =~ /…|\$\d|[?%]|:\w+ *[,)]/ || $statement =~ /^CALL pglock\.lock(?:\(\))?$/;
		runs_alone($database, $statement);
		$alone++;
	}
	is_shell($_) foreach examples($text, 'sh');
}
cmp_ok($with_values, '>=', 5, 'there are examples that show values');
cmp_ok($sessions, '>=', 3, '... and sessions');
cmp_ok($alone, '>=', 50, '... and statements in sentences');

# the drivers' recipes: those of the files that 060_drivers tests, each of them
sub part
{
	my ($file, $name) = @_;
	my ($part) = slurp_file($file) =~ /\[$name\]\n(.*?)\n\s*\S+ \[end\]$/ms or return;
	my ($indent) = $part =~ /^(\s*)/;

	return $part =~ s/^$indent//mgr;
}

# The block of a document that shows these parts, if the file has them.
sub block
{
	my ($file, @names) = @_;
	my @parts = map { part($file, $_) } @names;

	return @parts ? join("\n\n", @parts) . "\n" : ();
}

my $drivers = $text_of{'docs/drivers.md'};
my @recipes = grep { part($_, 'recipe') } glob "$root/test/drivers/*";
my %file_of;

foreach my $file (@recipes)
{
	$file_of{$_} = $file =~ s,.*/,,r
	  foreach block($file, 'recipe', 'example'), block($file, 'slot recipe', 'slot example'), block($file, 'slot in a transaction');
}
my @shown = map { $file_of{$_} // "unlike any file:\n$_" } $drivers =~ /^```(?!sql|console)\w+\n(.*?)^```$/msg;

sub languages
{
	my %of = map { /(\.\w+)$/ => 1 } @_;
	return [ sort keys %of ];
}

is_deeply([ grep { /^unlike/ } @shown ], [], 'every recipe that is shown is as it is tested');
is_deeply(languages(@shown), languages(@recipes), '... and there is one for each language');
is_deeply([ sort $drivers =~ m,\(\.\./test/drivers/([^)]+)\),g ], [ sort map { s|.*/||r } @recipes ],
	'... and a link to each file');
is_deeply([ grep { part($_, 'recipe') =~ tr/\n// >= 60 } @recipes ], [], '... and has 60 lines at most');

# the names: all that there is, and nothing that there is not
my $names = 'README';
my @functions = split /\n/, $node->safe_psql($names,
	"SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pglock'::regnamespace");
# the settings come with the library
my @settings = split /\n/, $node->safe_psql($names,
	"LOAD 'postgres_lock'; SELECT substr(name, 8) FROM pg_settings WHERE name LIKE 'pglock.%'");
my @relations = split /\n/, $node->safe_psql($names,
	"SELECT relname FROM pg_class WHERE relnamespace = 'pglock'::regnamespace");
my @columns = split /\n/, $node->safe_psql($names,
	"SELECT DISTINCT attname FROM pg_attribute
	 WHERE attrelid IN ('pglock.locks'::regclass, 'pglock.contention'::regclass) AND attnum > 0");
# ... and what only a proxy has
my @of_proxy = slurp_file("$root/src/proxy/postgres_lock_proxy--1.0.sql") =~ /^CREATE (?:FUNCTION|PROCEDURE|TABLE|VIEW) (\w+)/mg;
my %exists = map { $_ => 1 } @functions, @settings, @relations, @of_proxy;
my $reference = $text_of{'docs/reference.md'};

is_deeply([ grep { $reference !~ /`(?:CALL |[^`\n]*, )?\Q$_\E\(/ } @functions ], [],
	'every function is in the reference');
is_deeply([ grep { $reference !~ /^\| `pglock\.\Q$_\E` \|/m } @settings ], [], 'every setting is listed');
is_deeply([ grep { $reference !~ /`\Q$_\E`/ } @columns ], [], 'every column of the views is listed');
is_deeply([ grep { !$exists{$_} } $everything =~ /\bpglock\.(\w+)/g ], [], 'all that is named exists');

# the picture of the rooms: its arrows, and the names of all of them
my $rooms = $text_of{'docs/how-it-works.md'};
my @wrong;

foreach my $arrow ($rooms =~ /^    (\w+ --> \w+)$/mg)
{
	my ($from, $to) = split / --> /, $arrow;
	my @files = grep { -e } map { "$root/src/server/$from.$_" } 'cpp', 'hpp';

	push @wrong, $arrow
	  unless $to eq 'manager' ? slurp_file($files[0]) =~ /\bLOCK/ : grep { slurp_file($_) =~ /^#include "$to\.hpp"$/m } @files;
}
is_deeply(\@wrong, [], 'the rooms know each other as shown');
is_deeply([ grep { $rooms !~ /\b$_\b/ } map { m,([^/]+)\.hpp$, } glob "$root/src/server/*.hpp" ], [], '... and all are named');

# what is measured
my $metrics = slurp_file("$root/src/monitoring/postgres_lock_exporter.yaml");
my @measured = $everything =~ /\bpglock_((?:locks|slots|leases|contention|idle_holders|server)_\w+)/g;
my %metric;

foreach my $query (split /^(?=pglock_)/m, $metrics)
{
	my ($prefix) = $query =~ /^pglock_(\w+):/ or next;

	$metric{"${prefix}_$_"} = 1 foreach $query =~ /^    - (\w+):/mg;
}
isnt(scalar @measured, 0, 'metrics are named');
is_deeply([ grep { !$metric{$_} } @measured ], [], '... and exist');

# links: within a document, to a heading of another, to a file
sub without_examples { return $_[0] =~ s/^ *```.*?^ *```$//msgr; }

sub without_code { return without_examples($_[0]) =~ s/`[^`\n]*`/`/gr; }

sub anchors
{
	my %anchors = map { lc(s/[^\w\s-]//gr =~ s/ /-/gr) => 1 } $_[0] =~ s/^```.*?^```$//msgr =~ /^#+ (.*)$/mg;
	return \%anchors;
}

my %links = map { $_ => [ without_code($text_of{$_}) =~ /\]\(([^)\s]+)\)/g ] } documents();
my @dead;

foreach my $document (documents())
{
	foreach my $link (grep { !/^https:/ } @{ $links{$document} })
	{
		my ($path, $anchor) = $link =~ /^([^#]*)(?:#(.+))?$/;
		my $target = $path eq '' ? $document : dirname($document) . "/$path";

		# as documents() names them
		$target =~ s,^\./,,;
		$target =~ s,^docs/\.\./,,;
		push @dead, "$document: $link"
		  unless -e "$root/$target" && (!defined $anchor || anchors($text_of{$target} // '')->{$anchor});
	}
}
is_deeply(\@dead, [], 'links lead somewhere');

my %linked = map { s/#.*//r => 1 } @{ $links{'README.md'} };
is_deeply([ grep { !$linked{$_} } grep { $_ ne 'README.md' } documents() ], [], '... and from the README to all documents');

stop_and_check_log($node);
done_testing();
