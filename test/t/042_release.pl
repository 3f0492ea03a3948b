# What a release says of itself: one version everywhere, and a META.json as PGXN wants it.

use strict;
use warnings;
use FindBin;
use Cwd 'abs_path';
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

my $root = abs_path("$FindBin::RealBin/../..");

# The first group of what matches in that file.
sub found
{
	my ($file, $pattern) = @_;

	return slurp_file("$root/$file") =~ $pattern ? $1 : "nothing like $pattern";
}

#
# The version
#

my $version = found('postgres_lock.control', qr/^default_version = '(.*)'$/m);
my $meta = JSON::PP::decode_json(slurp_file("$root/META.json"));
my $provided = $meta->{provides}{postgres_lock};

# PGXN wants three numbers
like($version, qr/^\d+\.\d+$/, 'a version has two numbers');
is(found('CHANGELOG.md', qr/^## (\S+)/m), $version, 'CHANGELOG.md begins with the version of the control file');
is($meta->{version}, "$version.0", 'META.json has it');
is($provided->{version}, "$version.0", '... for the extension, too');
like($provided->{file}, qr,^sql/postgres_lock--(.*--)?\Q$version\E\.sql$,, '... and names its script');
ok((grep { /--\Q$version\E\.sql$/ } glob "$root/sql/postgres_lock--*.sql"), 'a script leads to it');
is(found('docs/install.md', qr/postgres_lock-(\S+)\.0\.zip/), $version, "docs/install.md names the release's archive by it");
is(found('packaging/postgres_lock.spec', qr/^Version: (\S+)$/m), "$version.0", "the RPM package's spec has it");
foreach my $script (glob "$root/sql/postgres_lock--*.sql")
{
	my ($name) = $script =~ m,([^/]+)$,;

	is(found("sql/$name", qr,\A/\* sql/(\S+) \*/$,m), $name, "$name knows its name");
}

SKIP:
{
	# an archive has none
	skip 'there is no debian/ here', 1 unless -d "$root/debian";
	is(found('debian/changelog', qr/\Apostgres-lock \((.*)-[^-]+\) /), $version, "Debian's changelog begins with it");
}

# (that of the library shows when it is another than the extension's)
my $prefix = PostgreSQL::Test::Utils::tempdir();

system_or_bail('make', '-s', '-C', $root, 'install-client', "prefix=$prefix", 'PG_CONFIG=/nonexistent');
like(slurp_file("$prefix/lib/pkgconfig/postgres_lock.pc"), qr/^Version: \Q$version\E$/m, "pkg-config's file has it");
like(slurp_file("$prefix/lib/cmake/postgres_lock/postgres_lock-config-version.cmake"),
	qr/PACKAGE_VERSION "\Q$version\E"/, "CMake's, too");

#
# META.json, by the PGXN Meta Spec 1.0.0: https://pgxn.org/spec/
#
# A pattern is for a string; an array for a list, or for one that stands alone; a hash for a map, whose keys
# must be there if they have an '!'. '*' has the pattern of all other keys.
#

my $string = qr/\S/;
my $url = qr{^[a-z][a-z+.-]*://[^/?\#]+}i;
my $term = qr{^[^\s[:cntrl:]/\\]{2,}$};
my $number = qr/(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*)){2}(?:-[a-z][0-9a-z-]*)?/i;
my $comparison = qr/(?:[<>]=?|[!=]=)?\s*(?:$number|0)/;
my $license = qr/^(agpl_3|apache_1_1|apache_2_0|artistic_1|artistic_2|bsd|freebsd|gfdl_1_2|gfdl_1_3|gpl_1|gpl_2|gpl_3
	|lgpl_2_1|lgpl_3_0|mit|mozilla_1_0|mozilla_1_1|openssl|perl_5|postgresql|qpl_1_0|ssleay|sun|zlib
	|open_source|restricted|unrestricted|unknown)$/x;
my $rules = {
	'name!' => $term,
	'version!' => qr/^$number$/,
	'abstract!' => $string,
	'maintainer!' => [$string],
	'license!' => [$license],
	'provides!' =>
	  { '*' => [ $term, { 'file!' => $string, 'version!' => qr/^$number$/, abstract => $string, docfile => $string } ] },
	'meta-spec!' => { 'version!' => qr/^1\.0\.\d+$/, url => $url },
	description => $string,
	generated_by => $string,
	tags => [ qr{^[^[:cntrl:]/\\]{1,255}$} ],
	no_index => { file => [$string], directory => [$string] },
	prereqs => {
		'*' => [
			qr/^(configure|build|test|runtime|develop)$/,
			{
				'*' => [
					qr/^(requires|recommends|suggests|conflicts)$/,
					{ '*' => [ $term, qr/^$comparison(\s*,\s*$comparison)*$/ ] }
				]
			}
		]
	},
	release_status => qr/^(stable|testing|unstable)$/,
	resources => {
		homepage => $url,
		bugtracker => { web => $url, mailto => qr/@/ },
		repository => { web => $url, url => $url, type => qr/^[^[:upper:]]+$/ }
	}
};

# Where the value is not by the rule.
sub faults
{
	my ($value, $rule, $where) = @_;

	if (ref $rule eq 'Regexp')
	{
		return defined $value && !ref $value && $value =~ $rule ? () : "$where is not like $rule";
	}
	if (ref $rule eq 'ARRAY')
	{
		my @values = ref $value eq 'ARRAY' ? @$value : $value;

		return @values ? (map { faults($_, $rule->[0], "$where\[]") } @values) : "$where is empty";
	}
	return "$where is no map" unless ref $value eq 'HASH';

	my @faults = map { !/!$/ || exists $value->{s/!$//r} ? () : "$where: there is no $_" } keys %$rule;
	my ($other, $rule_of_other) = @{ $rule->{'*'} // [qr/^$/] };

	# what begins so is everybody's own
	foreach my $key (grep { !/^x_/i } keys %$value)
	{
		my $rule_of = $rule->{$key} // $rule->{"$key!"} // ($key =~ $other ? $rule_of_other : undef);

		push @faults, $rule_of ? faults($value->{$key}, $rule_of, "$where: $key") : "$where: $key is unknown";
	}
	return @faults;
}

is_deeply([ faults($meta, $rules, 'META.json') ], [], 'META.json is by the rules of PGXN');
ok(-f "$root/$_", "it names a file that is there: $_") foreach @$provided{ 'file', 'docfile' };

# and would not be
my @spoilt = (
	(map { my $key = $_; sub { delete $_[0]{$key} } } map { /(.*)!$/ } sort keys %$rules),
	sub { $_[0]{version} = '1.0' },
	sub { $_[0]{version} = '1.0.00' },
	sub { $_[0]{name} = 'postgres lock' },
	sub { $_[0]{abstract} = '' },
	sub { $_[0]{license} = 'PostgreSQL' },
	sub { $_[0]{maintainer} = [] },
	sub { $_[0]{provides} = ['postgres_lock'] },
	sub { delete $_[0]{provides}{postgres_lock}{file} },
	sub { $_[0]{provides}{postgres_lock}{version} = '1' },
	sub { $_[0]{'meta-spec'}{version} = '2.0.0' },
	sub { $_[0]{tags} = ['lock/locks'] },
	sub { $_[0]{tag} = 'lock' },
	sub { $_[0]{prereqs}{runtime}{needs} = {} },
	sub { $_[0]{prereqs}{runtime}{requires}{PostgreSQL} = '15' },
	sub { $_[0]{release_status} = 'released' },
	sub { $_[0]{resources}{homepage} = 'example.org' });

foreach my $number (0 .. $#spoilt)
{
	my $copy = JSON::PP::decode_json(slurp_file("$root/META.json"));

	$spoilt[$number]->($copy);
	my @faults = faults($copy, $rules, 'META.json');
	is(scalar @faults, 1, 'not by the rules, ' . ($number + 1));
}

done_testing();
