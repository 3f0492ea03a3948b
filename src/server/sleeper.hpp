/*
 * sleeper.hpp: sleeping in front of a queue, which is a lock that the session has, until what the
 * queue waits for may have come.
 */
#pragma once

#include "pg.hpp"

#include <type_traits>

namespace pglock
{
class sleeper
{
  public:
	/* With lock_timeout set, it counts from now on. */
	sleeper(TimestampTz deadline, uint32 wait_event);

	/*
	 * Sleeps until that time by steady_clock::now(), or until somebody sets our latch, which may be
	 * for nothing. False: the deadline has passed. Raises 55P03 for lock_timeout.
	 */
	bool sleep_until(int64 when);

	/* The deadline by the wall clock, as that goes now: it may have been set since. */
	TimestampTz wall_clock_deadline() const;

  private:
	/* by steady_clock::now() */
	int64 deadline;
	int64 lock_timeout;
	uint32 wait_event;
};
static_assert(std::is_trivially_destructible_v<sleeper>);
} // namespace pglock
