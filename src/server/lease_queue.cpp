/*
 * lease_queue.cpp: sleeping in front of a key's queue, and waking who sleeps there.
 */
#include "lease_queue.hpp"

#include "compat.hpp"
#include "deadline.hpp"
#include "lease_clock.hpp"
#include "lease_locks.hpp"
#include "lock_table.hpp"

namespace pglock::lease_queue
{
namespace
{
/* WaitLatch() counts by a clock that stops while the machine is suspended: not longer in one go. */
constexpr int64 longest_sleep = 60 * USECS_PER_SEC;

/* A key whose queue is to be woken; in the memory of the transaction. */
struct wakeup
{
	int64 key_id;
	wakeup *next;
};
wakeup *wakeups = nullptr;

/* Called for each resource owner, of which that of the whole transaction is the last. */
void
after_release(ResourceReleasePhase phase, bool, bool is_transaction, void *)
{
	if (wakeups == nullptr || phase != RESOURCE_RELEASE_AFTER_LOCKS || !is_transaction ||
		CurrentResourceOwner != TopTransactionResourceOwner)
		return;
	for (const wakeup *w = wakeups; w != nullptr; w = w->next)
		wake(w->key_id);
	wakeups = nullptr;
}
} // namespace

/* Nobody sets the clock that is slept by. */
sleeper::sleeper(TimestampTz deadline)
	: deadline(deadline == deadline::never
				   ? never
				   : lease_clock::now() + (deadline - GetCurrentTimestamp())),
	  lock_timeout(LockTimeout > 0 ? lease_clock::now() + LockTimeout * INT64CONST(1000) : never)
{
}

bool
sleeper::sleep_until(int64 when)
{
	int64 length = Min(when, Min(deadline, lock_timeout)) - lease_clock::now();

	if (length > 0)
	{
		static uint32 event = compat::wait_event("PglockLease");

		/* nothing needs to be kept for what was read of the catalogs */
		InvalidateCatalogSnapshotConditionally();
		WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
				  static_cast<long>(Min(length, longest_sleep) / 1000 + 1), event);
		ResetLatch(MyLatch);
	}
	CHECK_FOR_INTERRUPTS();
	if (lease_clock::now() >= lock_timeout)
		ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
						errmsg("canceling statement due to lock timeout")));
	return lease_clock::now() < deadline;
}

void
wake(int64 key_id)
{
	lock_table::wake_holders(lease_locks::gate(key_id).tag);
}

void
wake_at_end(int64 key_id)
{
	static bool is_registered = false;

	if (!is_registered)
		RegisterResourceReleaseCallback(after_release, nullptr);
	is_registered = true;
	if (wakeups != nullptr && wakeups->key_id == key_id)
		return;

	auto added = static_cast<wakeup *>(MemoryContextAlloc(TopTransactionContext, sizeof(wakeup)));

	*added = {key_id, wakeups};
	wakeups = added;
}
} // namespace pglock::lease_queue
