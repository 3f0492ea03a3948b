/*
 * lease_queue.cpp: waking who sleeps in front of a key's queue.
 */
#include "lease_queue.hpp"

#include "lease_locks.hpp"
#include "lock_table.hpp"

namespace pglock::lease_queue
{
namespace
{
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
