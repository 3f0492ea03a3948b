/*
 * lease_queue.hpp: sleeping in front of a key's queue, and waking who sleeps there.
 *
 * The gate of the key (see lease_locks.hpp) is the queue. Who has it sleeps until the first lease
 * expires, and is woken when one ends before.
 */
#pragma once

#include "pg.hpp"

#include <type_traits>

namespace pglock::lease_queue
{
constexpr int64 never = PG_INT64_MAX;

class sleeper
{
  public:
	/* With lock_timeout set, it counts from now on. */
	explicit sleeper(TimestampTz deadline);

	/*
	 * Sleeps until that time by lease_clock::now(), or until somebody wakes us, which may be for
	 * nothing. False: the deadline has passed. Raises 55P03 for lock_timeout.
	 */
	bool sleep_until(int64 when);

  private:
	/* by lease_clock::now() */
	int64 deadline;
	int64 lock_timeout;
};
static_assert(std::is_trivially_destructible_v<sleeper>);

/* Has who sleeps in front of the key's queue look again. Never raises. */
void wake(int64 key_id);

/* The same when this transaction has ended, however it does. */
void wake_at_end(int64 key_id);
} // namespace pglock::lease_queue
