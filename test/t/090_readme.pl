# What the README shows works, in the order in which a reader meets it, and what it names exists.
#
# Every ```sql block runs in a session of its own, on one server. No statement may fail or warn. In a
# block with values in comments those are all of its answers: one value a row, "; -- t|1: and why".
# A ```console block is a whole session: what is typed, what is answered, and what went wrong.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = "$FindBin::RealBin/../..";
my $readme = slurp_file("$root/README.md");
# the settings it recommends are some that the server knows
my $conf = join '', $readme =~ /^```ini\n(.*?)^```$/msg;
my $node = new_server('readme', extension => 0, conf => $conf);

# the blocks
my @blocks = $readme =~ /^```sql\n(.*?)^```$/msg;
my $with_values = 0;

foreach my $block (@blocks)
{
	my ($title) = $block =~ /^(.*?)(?: *--.*)?$/m;
	my @values = $block =~ /; *-- (\S.*?)(?:: .*)?$/mg;
	my ($stdout, $stderr);
	my $status = $node->psql('postgres', $block,
		on_error_die => 0, on_error_stop => 1, stdout => \$stdout, stderr => \$stderr);

	is($status, 0, "runs: $title");
	is($stderr, '', "nothing to complain of: $title");
	next unless @values;
	$with_values++;
	is($stdout, join("\n", @values), "answers as shown: $title");
}
cmp_ok($with_values, '>=', 5, 'the README has blocks that show values');

# the sessions
my @sessions = $readme =~ /^```console\n(.*?)^```$/msg;

foreach my $session (@sessions)
{
	my @typed = $session =~ /^postgres=# (.*)$/mg;
	my @shown = grep { !/^postgres=# / } split /\n/, $session;
	my ($stdout, $stderr);

	$node->psql('postgres', join("\n", @typed),
		on_error_die => 0, on_error_stop => 0, stdout => \$stdout, stderr => \$stderr);
	$stderr =~ s/^psql:<stdin>:\d+: //mg;
	is($stdout, join("\n", grep { !/^[A-Z]+: / } @shown), "answers as shown: $typed[0]");
	is($stderr, join("\n", grep { /^[A-Z]+: / } @shown), "complains as shown: $typed[0]");
}
is(scalar @sessions, 3, 'the README has sessions');

# the drivers' recipes: those of the files that 060_drivers tests, each of them
sub part
{
	my ($file, $name) = @_;
	my ($part) = slurp_file($file) =~ /\[$name\]\n(.*?)\n\s*\S+ \[end\]$/ms or return;
	my ($indent) = $part =~ /^(\s*)/;

	return $part =~ s/^$indent//mgr;
}

my @recipes = grep { part($_, 'recipe') } glob "$root/test/drivers/*";
my %file_of = map { part($_, 'recipe') . "\n\n" . part($_, 'example') . "\n" => s,.*/,,r } @recipes;
my @shown = map { $file_of{$_} // "unlike any file:\n$_" } $readme =~ /^```(?:python|js|java|perl)\n(.*?)^```$/msg;

is_deeply(
	[ sort @shown, $readme =~ /`(\w+_lock\.py)`/g ],
	[ sort map { s,.*/,,r } @recipes ],
	'every recipe is shown as it is tested, or its file is named');
is_deeply([ grep { part($_, 'recipe') =~ tr/\n// >= 15 } @recipes ], [], '... and has 15 lines at most');

# the names: all that there is, and nothing that there is not
my @functions = split /\n/, $node->safe_psql('postgres',
	"SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pglock'::regnamespace");
# the settings come with the library
my @settings = split /\n/, $node->safe_psql('postgres',
	"LOAD 'postgres_lock'; SELECT substr(name, 8) FROM pg_settings WHERE name LIKE 'pglock.%'");
my @relations = split /\n/, $node->safe_psql('postgres',
	"SELECT relname FROM pg_class WHERE relnamespace = 'pglock'::regnamespace");
my @columns = split /\n/, $node->safe_psql('postgres',
	"SELECT DISTINCT attname FROM pg_attribute
	 WHERE attrelid IN ('pglock.locks'::regclass, 'pglock.contention'::regclass) AND attnum > 0");
my %exists = map { $_ => 1 } @functions, @settings, @relations;
my ($reference) = $readme =~ /^## Functions$(.*?)^## /ms;

is_deeply([ grep { $reference !~ /`(?:CALL |[^`\n]*, )?\Q$_\E\(/ } @functions ], [],
	'every function is in the reference');
is_deeply([ grep { $readme !~ /^\| `pglock\.\Q$_\E` \|/m } @settings ], [], 'every setting is listed');
is_deeply([ grep { $reference !~ /`\Q$_\E`/ } @columns ], [], 'every column of the views is listed');
is_deeply([ grep { !$exists{$_} } $readme =~ /\bpglock\.(\w+)/g ], [], 'all that is named exists');

# links within the README
my %anchors = map { $_ => 1 } map { lc(s/[^\w\s-]//gr =~ s/ /-/gr) } $readme =~ /^#+ (.*)$/mg;
is_deeply([ grep { !$anchors{$_} } $readme =~ /\]\(#([^)]+)\)/g ], [], 'links lead somewhere');

stop_and_check_log($node);
done_testing();
