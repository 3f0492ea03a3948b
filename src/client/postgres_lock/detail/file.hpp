// file.hpp: open files, which end with their owner.
#pragma once

#include <array>
#include <cerrno>
#include <fcntl.h>
#include <system_error>
#include <unistd.h>
#include <utility>

namespace pglock::detail
{
/// Owns an open file, which programs that this one starts don't get.
class file
{
  public:
	file() = default;

	/// The number is what a function of the system has answered that has kept the file from other
	/// programs. Throws `std::system_error` if that was an error.
	explicit file(int number) : number_(number)
	{
		if (number < 0)
			throw std::system_error(errno, std::generic_category(), "postgres_lock");
	}

	file(file &&other) noexcept : number_(std::exchange(other.number_, -1))
	{
	}

	file &
	operator=(file &&other) noexcept
	{
		std::swap(number_, other.number_);
		return *this;
	}

	~file()
	{
		if (number_ >= 0)
			::close(number_);
	}

	[[nodiscard]] int
	get() const noexcept
	{
		return number_;
	}

	/// For who closes it from now on.
	int
	release() noexcept
	{
		return std::exchange(number_, -1);
	}

  private:
	int number_ = -1;
};

/// Of a file that somebody else may close at any time. Throws as well.
[[nodiscard]] inline file
duplicate_of(int number)
{
	return file(fcntl(number, F_DUPFD_CLOEXEC, 0));
}

/// The ends to read from and to write to. Throws `std::system_error` if there can't be one.
[[nodiscard]] inline std::pair<file, file>
make_pipe()
{
	std::array<int, 2> ends{-1, -1};

#ifdef __APPLE__
	// has no pipe2(): a program that is started in between gets it, too
	if (::pipe(ends.data()) == 0)
		for (int end : ends)
			fcntl(end, F_SETFD, FD_CLOEXEC);
#else
	static_cast<void>(::pipe2(ends.data(), O_CLOEXEC));
#endif
	return {file(ends[0]), file(ends[1])};
}
} // namespace pglock::detail
