# make without a PostgreSQL to build for says what to give and touches nothing, whatever the target; without
# clang it builds all but the bitcode. And the commands choose the newest PostgreSQL.

use strict;
use warnings;
use FindBin;
use Cwd 'abs_path';
use File::Find;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = abs_path("$FindBin::RealBin/../..");
my $folder = PostgreSQL::Test::Utils::tempdir();
my $sources = "$folder/sources";
my $installed = "$folder/installed";

sub run_make
{
	my (@arguments) = @_;
	my ($stdout, $stderr) = ('', '');
	my $result = IPC::Run::run([ 'make', '-C', $sources, @arguments ], '<', \undef, '>', \$stdout, '2>', \$stderr);

	return ($result, $stdout, $stderr);
}

# Every file and folder below one, and how large the files are.
sub contents
{
	my ($below) = @_;
	my %size;

	find({ no_chdir => 1, wanted => sub { $size{$_} = -d $_ ? 'folder' : -s $_ } }, $below);
	return \%size;
}

mkdir $sources or die $!;
system_or_bail('cp', '-rp', (map { "$root/$_" } 'Makefile', 'src', 'sql', 'test', 'postgres_lock.control'), $sources);
# they may have been built
system_or_bail('find', $sources, '-name', '*.o', '-delete', '-o', '-name', '*.bc', '-delete', '-o', '-name', '*.so', '-delete');

# what the rules would find if a directory of theirs was empty: a checkout in /postgres_lock, for one
foreach my $name (qw(include extension doc bin contrib pkgconfig), map { "$_/postgres_lock" } qw(. cmake bitcode))
{
	system_or_bail('mkdir', '-p', "$installed/$name");
	append_to_file("$installed/$name/postgres_lock.hpp", 'not ours');
}

# every target, ours and those of PGXS; those that only name files and groups of them are not asked for
my ($known, $database) = run_make('-n', '-p', '-q', 'all');
my %targets = map { $_ => 1 } $database =~ /(?<!# Not a target:\n)^([a-z][a-z-]*):/mg;
# they don't ask for PG_CONFIG
delete @targets{qw(assert-test sanitize-test postgres-test dist install-client uninstall-client)};
delete @targets{qw(matrix client-matrix packages install-test)};

ok($targets{$_}, "$_ is one of the targets") foreach qw(all install uninstall clean installcheck test demo bench);

#
# Without a PostgreSQL
#

my $before = contents($folder);
my %without = (
	'/no/such' => 'there is no such file',
	'/bin/true' => 'it says nothing',
	'/bin/echo' => 'it says what is no file',
	'' => 'it is empty');

foreach my $pg_config (sort keys %without)
{
	# the commands say so themselves, and an empty one is none for them
	my @names = $pg_config eq '/no/such' ? sort keys %targets : qw(all install uninstall clean);

	foreach my $target (@names)
	{
		my ($result, undef, $stderr) = run_make($target, "PG_CONFIG=$pg_config", "DESTDIR=$installed");

		ok(!$result, "make $target fails with PG_CONFIG=$pg_config: $without{$pg_config}");
		like($stderr, qr{PG_CONFIG=/path/to/pg_config}, '... and says what to give');
	}
}

{
	local $ENV{PATH} = "$folder/path";
	local $ENV{PG_CONFIG};

	delete $ENV{PG_CONFIG};
	mkdir $ENV{PATH} or die $!;
	symlink "/usr/bin/$_", "$ENV{PATH}/$_" or die $! foreach qw(make sh sed);
	$before = contents($folder);
	foreach my $target ([], ['install'], ['uninstall'])
	{
		my ($result, undef, $stderr) = run_make(@$target, "DESTDIR=$installed");

		ok(!$result, "make @$target fails without a pg_config on the PATH");
		like($stderr, qr{PG_CONFIG=/path/to/pg_config}, '... and says what to give');
	}
}
is_deeply(contents($folder), $before, 'nothing has been made or deleted');

#
# Directories that are empty
#

foreach my $directory (qw(includedir libdir))
{
	foreach my $target (qw(install-client uninstall-client install uninstall))
	{
		my ($result, undef, $stderr) = run_make($target, "DESTDIR=$installed", "$directory=");

		ok(!$result, "make $target fails if $directory is empty");
		like($stderr, qr/$directory= is not an absolute path/, '... and says so');
	}
}
foreach my $target (qw(all headers unit bench))
{
	my ($result, undef, $stderr) = run_make('-C', 'test/client', $target, 'BUILD=');

	ok(!$result, "make $target of the client's tests fails if BUILD is empty");
	like($stderr, qr/BUILD= is not a folder/, '... and says so');
}
is_deeply(contents($folder), $before, 'nothing has been made or deleted');

# scripts: a variable that is empty ends them before they delete below it, or give that away
my @scripts = map { glob "$root/$_" } qw(.ci/run test/*.sh debian/rules debian/tests/* debian/*.prerm.in);

foreach my $script (grep { -f } @scripts)
{
	my @commands = slurp_file($script) =~ /\b(?:rm\s+-\w*r|chown\s+-R).*$/mg;

	is_deeply([ grep { m{(?<![\w:])"?\$\w+(?!\S*:)"?(?:[/'\s]|$)} } @commands ],
		[], "$script deletes below no empty variable");
}

#
# What the targets do with one
#

# what is ours goes, and what others have put there stays
my $prefix = "$folder/prefix";

foreach my $foreign (qw(postgres_lock/.git postgres_lock/detail/notes ../lib/cmake/postgres_lock/notes ../lib/pkgconfig))
{
	system_or_bail('mkdir', '-p', "$prefix/include/$foreign");
}
$before = contents($prefix);
ok((run_make('install-client', "prefix=$prefix"))[0], 'the client is installed');
ok(-f "$prefix/include/postgres_lock/libpq.hpp", '... with its headers');
ok((run_make('uninstall-client', "prefix=$prefix"))[0], '... and uninstalled');
is_deeply(contents($prefix), $before, '... all but what others have put into its folders');

my ($old, undef, $refusal) = run_make('all', 'MAJORVERSION=14');

ok(!$old, 'make fails for PostgreSQL 14');
like($refusal, qr/requires PostgreSQL 15 or later/, '... and says so');

#
# Without clang
#

my @without_clang = ('with_llvm=yes', 'CLANG=/no/such/clang-14');
my ($built, $stdout, $stderr) = run_make('-s', '-j2', 'COPT=-O0', @without_clang);

ok($built, 'make builds without the clang that PostgreSQL names') or diag($stderr);
like($stdout, qr{^building without bitcode.*/no/such/clang-14$}m, '... and says what it does without');
ok(-f "$sources/postgres_lock.so", '... the library');
is_deeply([ grep { /\.bc$/ } keys %{ contents($sources) } ], [], '... and no bitcode');
ok((run_make('install', "DESTDIR=$folder/without-clang", @without_clang))[0], '... and installs it');
my ($shared) = run_command([ $ENV{PG_CONFIG} // 'pg_config', '--sharedir' ]);
ok(-f "$folder/without-clang$shared/extension/postgres_lock_$_", "... with $_") foreach qw(exporter.yaml alerts.yaml dashboard.json proxy.control proxy--1.0.sql);
(undef, $stdout) = run_make('-n', 'uninstall', @without_clang);
like($stdout, qr/bitcode/, 'bitcode that is there is uninstalled');

#
# Which PostgreSQL the commands use
#

my $versions = "$folder/versions";
my $newest = "cd $root; source test/lib.sh; debian_postgres=$versions; newest_installed";

foreach my $version (15, 99, 100)
{
	system_or_bail('mkdir', '-p', "$versions/$version/bin");
	append_to_file("$versions/$version/bin/postgres", "#!/bin/sh\necho 'postgres (PostgreSQL) $version.1 (Debian)'\n");
	chmod 0755, "$versions/$version/bin/postgres" or die $!;
}
is((run_command([ 'bash', '-c', $newest ]))[0], "$versions/100/bin/pg_config", 'the commands use the newest that is installed');
is((run_command([ 'bash', '-c', $newest =~ s/(?=newest_installed)/oldest_postgres=101; /r ]))[0], '', '... if it is not too old');

done_testing();
