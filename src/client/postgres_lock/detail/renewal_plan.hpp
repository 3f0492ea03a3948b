// renewal_plan.hpp: when leases are renewed, and when those who hold them have to stop: what a
// keeper decides, without its threads and connections.
#pragma once

#include <chrono>

#include "../lease.hpp"

namespace pglock::detail
{
/// How a renewal has ended.
enum class renewal_outcome : unsigned char { renewed, lost, failed };

/// How long before a lease may be lost stop is requested.
[[nodiscard]] inline std::chrono::milliseconds
usual_margin(const lease &held) noexcept
{
	return held.ttl() / 10;
}

/// Of a lease that may have been taken long ago.
[[nodiscard]] inline lease::clock::time_point
first_renewal_of(const lease &held) noexcept
{
	return held.deadline() - 2 * lease::clock::duration(held.ttl()) / 3;
}

/// Until the next renewal. Nobody asks for a lease that is lost.
[[nodiscard]] inline lease::clock::duration
pause_after(renewal_outcome last, const lease &held) noexcept
{
	lease::clock::duration ttl = held.ttl();

	switch (last)
	{
		case renewal_outcome::renewed:
			return ttl / 3;
		case renewal_outcome::failed:
			return ttl / 20;
		default:
			return std::chrono::hours(24 * 365);
	}
}

/// How long a renewal waits for its answer, before it is tried over another connection.
[[nodiscard]] inline std::chrono::milliseconds
renewal_limit(const lease &held) noexcept
{
	return held.ttl() / 4;
}

/// When whoever holds it has to stop, unless it is renewed before: at once if it is lost.
[[nodiscard]] inline lease::clock::time_point
stop_time(const lease &held, std::chrono::milliseconds margin) noexcept
{
	return held.deadline() - margin;
}

/// How long to wait for that time, by a clock that may stop while the machine is suspended: in
/// slices. Not before now.
[[nodiscard]] inline lease::clock::duration
wait_until(lease::clock::time_point time, lease::clock::time_point now) noexcept
{
	constexpr lease::clock::duration slice = std::chrono::milliseconds(250);

	if (time <= now)
		return lease::clock::duration::zero();
	return time - now < slice ? time - now : slice;
}
} // namespace pglock::detail
