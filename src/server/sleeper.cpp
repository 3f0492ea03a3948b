/*
 * sleeper.cpp: sleeping in front of a queue.
 */
#include "sleeper.hpp"

#include "deadline.hpp"
#include "steady_clock.hpp"

namespace pglock
{
/* WaitLatch() counts by a clock that stops while the machine is suspended: not longer in one go. */
static constexpr int64 longest_sleep = 60 * USECS_PER_SEC;

/* Nobody sets the clock that is slept by. */
sleeper::sleeper(TimestampTz deadline, uint32 wait_event)
	: deadline(deadline == deadline::never
				   ? steady_clock::never
				   : steady_clock::now() + (deadline - GetCurrentTimestamp())),
	  lock_timeout(LockTimeout > 0 ? steady_clock::now() + LockTimeout * INT64CONST(1000)
								   : steady_clock::never),
	  wait_event(wait_event)
{
}

bool
sleeper::sleep_until(int64 when)
{
	int64 length = Min(when, Min(deadline, lock_timeout)) - steady_clock::now();

	if (length > 0)
	{
		/* nothing needs to be kept for what was read of the catalogs */
		InvalidateCatalogSnapshotConditionally();
		WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
				  static_cast<long>(Min(length, longest_sleep) / 1000 + 1), wait_event);
		ResetLatch(MyLatch);
	}
	CHECK_FOR_INTERRUPTS();
	if (steady_clock::now() >= lock_timeout)
		ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
						errmsg("canceling statement due to lock timeout")));
	return steady_clock::now() < deadline;
}

TimestampTz
sleeper::wall_clock_deadline() const
{
	return deadline == steady_clock::never
			   ? deadline::never
			   : GetCurrentTimestamp() + (deadline - steady_clock::now());
}
} // namespace pglock
