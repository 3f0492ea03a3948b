# PgInstallation: a copy of the PostgreSQL that is tested, where a test may install other versions of the
# extension beside the one there is, and replace the library while servers run.

package PgInstallation;

use strict;
use warnings;
use FindBin;
use Cwd 'abs_path';
use File::Basename;
use PostgreSQL::Test::Utils;
use Test::More;

my $sources = abs_path("$FindBin::RealBin/../..");

# A copy below `folder`.
sub new
{
	my ($class, $folder) = @_;
	my $self = bless { folder => $folder }, $class;

	# PostgreSQL finds its files by where its programs are: they can't be links, all else can
	$self->_copy('bindir', '-r');
	$self->_copy($_, '-rs') foreach 'pkglibdir', 'sharedir';
	return $self;
}

# What new_server() is told.
sub install_path
{
	my ($self) = @_;

	return dirname($self->{bindir});
}

# Installs a file of the extension in place of one of that name: `name` => content.
sub install
{
	my ($self, %files) = @_;

	foreach my $name (keys %files)
	{
		my $file = "$self->{sharedir}/extension/$name";

		unlink $file;
		append_to_file($file, $files{$name});
	}
	return;
}

# What is installed by that name.
sub installed
{
	my ($self, $name) = @_;

	return slurp_file("$self->{sharedir}/extension/$name");
}

sub set_default_version
{
	my ($self, $version) = @_;
	my $control = $self->installed('postgres_lock.control') =~ s/^default_version = .*/default_version = '$version'/mr;

	$self->install('postgres_lock.control' => $control);
	return;
}

# Puts a library in the place of the one there is, as a package's upgrade does: sessions that have the
# old one keep it.
sub install_library
{
	my ($self, $library) = @_;
	my $place = "$self->{pkglibdir}/postgres_lock.so";

	system_or_bail('cp', $library, "$place.new");
	rename "$place.new", $place or die $!;
	return;
}

# Builds the library of another version, or of this one if that is undef, in `folder`, and returns its file.
# `edit`: file => function that returns the file's content changed.
sub build_library
{
	my ($folder, $version, %edit) = @_;

	mkdir $folder or die $!;
	system_or_bail('cp', '-rp', (map { "$sources/$_" } 'Makefile', 'src', 'sql', 'postgres_lock.control'), $folder);
	$edit{'postgres_lock.control'} = sub { s/^default_version = .*/default_version = '$version'/mr } if defined $version;
	_edit("$folder/$_", $edit{$_}) foreach sort keys %edit;
	return build_library_again($folder);
}

# Builds it with more flags for the compiler, which matter for these files.
sub build_library_again
{
	my ($folder, $flags, @files) = @_;

	# make does not miss an object while the library is newer than the sources
	unlink "$folder/postgres_lock.so", map { "$folder/src/server/$_.o" } @files;
	system_or_bail('make', '-s', '-j2', '-C', $folder, 'postgres_lock.so', 'COPT=' . ($flags // ''));
	return "$folder/postgres_lock.so";
}

sub _copy
{
	my ($self, $what, $how) = @_;
	my $original = qx{"\${PG_CONFIG:-pg_config}" --$what};

	chomp $original;
	$self->{$what} = "$self->{folder}$original";
	system_or_bail('mkdir', '-p', dirname($self->{$what}));
	system_or_bail('cp', $how, $original, $self->{$what});
	return;
}

sub _edit
{
	my ($file, $edit) = @_;

	local $_ = slurp_file($file);
	my $edited = $edit->($_);

	die "nothing to change in $file" if $edited eq $_;
	unlink $file;
	append_to_file($file, $edited);
	return;
}

1;
