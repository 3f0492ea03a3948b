/*
 * steady_clock.hpp: a clock that nobody sets, and that goes on while the machine is suspended.
 *
 * It begins anew with the machine, and each machine has its own.
 */
#pragma once

#include "pg.hpp"

#include <ctime>

namespace pglock::steady_clock
{
constexpr int64 never = PG_INT64_MAX;

/* In microseconds. */
inline int64
now()
{
#ifdef CLOCK_BOOTTIME
	constexpr clockid_t clock = CLOCK_BOOTTIME;
#else
	constexpr clockid_t clock = CLOCK_MONOTONIC;
#endif
	timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec * USECS_PER_SEC + time.tv_nsec / 1000;
}
} // namespace pglock::steady_clock
