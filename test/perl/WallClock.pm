# WallClock: the wall clock that servers are told, which a test can set and stop. Their other clocks are right.

package WallClock;

use strict;
use warnings;
use PostgreSQL::Test::Utils;

my $library;

sub _build
{
	my $folder = PostgreSQL::Test::Utils::tempdir();

	append_to_file("$folder/shift.cpp", <<'END_OF_CPP');
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

/* the content of a file */
struct setting
{
	int64_t ahead;		/* by how many seconds the wall clock is ahead */
	int64_t stopped_at; /* in seconds, before that is added; 0: it goes */
};

static const volatile setting *
set()
{
	static const int file = open(getenv("SHIFT_FILE"), O_RDONLY);
	static void *const content = mmap(nullptr, sizeof(setting), PROT_READ, MAP_SHARED, file, 0);

	return static_cast<const setting *>(content);
}

extern "C" int
clock_gettime(clockid_t clock, timespec *time) noexcept
{
	auto result = static_cast<int>(syscall(SYS_clock_gettime, clock, time));

	if (result != 0 || clock != CLOCK_REALTIME)
		return result;
	if (set()->stopped_at != 0)
		*time = {set()->stopped_at, 0};
	time->tv_sec += set()->ahead;
	return result;
}

extern "C" int
gettimeofday(timeval *time, void *) noexcept
{
	timespec now;
	int result = clock_gettime(CLOCK_REALTIME, &now);

	*time = {now.tv_sec, now.tv_nsec / 1000};
	return result;
}

extern "C" time_t
time(time_t *time) noexcept
{
	timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (time != nullptr)
		*time = now.tv_sec;
	return now.tv_sec;
}

/* files were changed by the same clock, as if it had been as far ahead then */
extern "C" int
stat(const char *path, struct stat *file) noexcept
{
	auto result = static_cast<int>(syscall(SYS_newfstatat, AT_FDCWD, path, file, 0));

	if (result == 0)
		file->st_mtim.tv_sec += set()->ahead;
	return result;
}

extern "C" int
stat64(const char *path, struct stat64 *file) noexcept
{
	return stat(path, reinterpret_cast<struct stat *>(file));
}
END_OF_CPP
	system_or_bail($ENV{CXX} // 'g++', '-shared', '-fPIC', '-fno-threadsafe-statics', '-o', "$folder/shift.so",
		"$folder/shift.cpp");
	return "$folder/shift.so";
}

# One that is right until it is set.
sub new
{
	my ($class) = @_;
	my $self = bless { file => PostgreSQL::Test::Utils::tempdir() . '/shift' }, $class;

	$library //= _build();
	append_to_file($self->{file}, pack 'qq', 0, 0);
	return $self;
}

# Sets it ahead of the right time by so many seconds.
sub set
{
	my ($self, $seconds) = @_;

	return $self->_write($seconds, 0);
}

# It stands still, until it is set.
sub stop
{
	my ($self) = @_;

	return $self->_write(0, time);
}

sub _write
{
	my ($self, @setting) = @_;

	# the same file, which servers have mapped
	open my $file, '+<', $self->{file} or die $!;
	syswrite($file, pack('qq', @setting), 16) == 16 or die $!;
	close $file;
	return;
}

# Does something with a server, as new_server() and restart(), that is then told this clock.
sub with
{
	my ($self, $action) = @_;
	local $ENV{LD_PRELOAD} = $library;
	local $ENV{SHIFT_FILE} = $self->{file};

	return $action->();
}

1;
