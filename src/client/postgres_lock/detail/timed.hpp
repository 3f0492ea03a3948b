// timed.hpp: waiting for any duration, and until any time of any clock.
#pragma once

#include <chrono>

#include "../options.hpp"
#include "blocking_hold.hpp"

namespace pglock::detail
{
/// Wide enough for the difference of any two times.
using wide_milliseconds = std::chrono::duration<long double, std::milli>;

/// Takes one level, and waits as long as there is time left. Clocks may be set, and differ from
/// that of the server, so the clock has the last word.
template <typename Left>
[[nodiscard]] bool
take_while(blocking_hold &wanted, Left left)
{
	wide_milliseconds time = left();

	do
	{
		if (wanted.take(time_limit(time)))
			return true;
		time = left();
	} while (time > wide_milliseconds::zero());
	return false;
}

template <typename Rep, typename Period>
[[nodiscard]] bool
take_for(blocking_hold &wanted, const std::chrono::duration<Rep, Period> &time)
{
	auto start = std::chrono::steady_clock::now();

	return take_while(wanted, [&] {
		return wide_milliseconds(time) -
			   wide_milliseconds(std::chrono::steady_clock::now() - start);
	});
}

template <typename Clock, typename Duration>
[[nodiscard]] bool
take_until(blocking_hold &wanted, const std::chrono::time_point<Clock, Duration> &time)
{
	return take_while(wanted, [&] {
		return wide_milliseconds(time.time_since_epoch()) -
			   wide_milliseconds(Clock::now().time_since_epoch());
	});
}
} // namespace pglock::detail
