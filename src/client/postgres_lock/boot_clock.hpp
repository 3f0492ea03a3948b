// boot_clock.hpp: the time since the machine was started.
#pragma once

#include <chrono>
#include <ctime>

namespace pglock
{
/// A clock that nobody sets, and that goes on while the machine is suspended, as `steady_clock`
/// does not everywhere: by it a lease is known to have expired meanwhile. Meets the standard's
/// requirements for a clock.
struct boot_clock
{
	using duration = std::chrono::nanoseconds;
	using rep = duration::rep;
	using period = duration::period;
	using time_point = std::chrono::time_point<boot_clock>;
	static constexpr bool is_steady = true;

	[[nodiscard]] static time_point
	now() noexcept
	{
#ifdef CLOCK_BOOTTIME
		timespec time{};

		clock_gettime(CLOCK_BOOTTIME, &time);
		return time_point(std::chrono::seconds(time.tv_sec) +
						  std::chrono::nanoseconds(time.tv_nsec));
#else
		return time_point(std::chrono::steady_clock::now().time_since_epoch());
#endif
	}
};
} // namespace pglock
