/*
 * slot_queue.cpp: waking who sleeps in front of those who wait for a slot of a key.
 */
#include "slot_queue.hpp"

#include "hold_table.hpp"
#include "lock_table.hpp"

namespace pglock::slot_queue
{
/* All locks of the session have been released, and the books say what they were. */
static void
wake_all(int, Datum)
{
	hold_table::for_each([](const hold &h) {
		if (h.what.slot > 0)
			wake(h.what.lock_id);
	});
}

void
wake(int64 lock_id)
{
	lock_table::wake_holders(lockable{lock_id, any_slot}.tag());
}

void
wake_at_session_end()
{
	static bool is_registered = false;

	if (!is_registered)
		on_shmem_exit(wake_all, 0);
	is_registered = true;
}
} // namespace pglock::slot_queue
