/*
 * slots.cpp: the rules for taking slots.
 *
 * Each slot is a lock, and the lock manager says who has it. It can't wait for one of several
 * locks: that is what slot_queue.hpp is for. The deadlock detection does not see such a wait. Where
 * there is only one slot it is waited for as for any lock.
 */
#include "slots.hpp"

#include "compat.hpp"
#include "deadline.hpp"
#include "holds.hpp"
#include "sleeper.hpp"
#include "slot_queue.hpp"
#include "steady_clock.hpp"
#include "waiting.hpp"

namespace pglock::slots
{
namespace
{
/* A slot that is wanted of a key. */
struct wanted
{
	const lock_key &key;
	int32 slots;
	const request &how;
};

void
check_may_take(const wanted &w)
{
	lock_key any = w.key.with(any_slot);

	check_may_acquire(any, w.how);
	/* before it waits for what it may not have */
	holds::check_limit(any);
}

bool
take(const wanted &w, int32 number)
{
	lock_key slot = w.key.with(number);

	/*
	 * Most of many slots are held, and that is cheap to see. What this session holds is not free
	 * either, though it could lock it once more.
	 */
	if (manager::parties(slot.tag()) > 0)
		return false;
	return holds::take(slot, w.how.mode, w.how.scope);
}

/*
 * Takes the first slot that is free, from one chosen at random on; 0: none is. Interrupts wait
 * meanwhile: what serves them may reset the latch that tells of a slot which was looked at before.
 */
int32
take_free(const wanted &w)
{
	auto last = static_cast<uint64>(w.slots) - 1;
	auto first = static_cast<int32>(pg_prng_uint64_range(&pg_global_prng_state, 0, last));

	for (int32 i = 0; i < w.slots; i++)
	{
		int32 number = (first + i) % w.slots + 1;

		if (take(w, number))
			return number;
	}
	return 0;
}

/* Takes a slot if one is to be had at once, and nobody waits. */
int32
take_at_once(const wanted &w)
{
	naming_context naming("acquiring a slot of", w.key);
	int32 slot = 0;

	slot_queue::wake_at_session_end();
	if (w.slots == 1 || manager::parties(w.key.with(any_slot).tag()) == 0)
		slot = take_free(w);
	naming.end();
	return slot;
}

/* Raises 55000 if this session waited for itself. */
void
check_others_hold_some(const wanted &w)
{
	for (int32 i = 1; i <= w.slots; i++)
		if (!manager::holds(lock{w.key.with(i), w.how.mode}))
			return;
	ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("cannot wait for a slot of %s", describe(w.key)),
					w.slots == 1 ? errdetail("This session holds the only slot itself.")
								 : errdetail("This session holds all %d slots itself.", w.slots),
					errhint("Release one of them first, or ask for more slots.")));
}

/* For whoever is in front of those who wait. */
int32
take_when_free(const wanted &w)
{
	/* a transaction that was prepared, and what goes round the books, wake nobody */
	constexpr int64 patience = USECS_PER_SEC;
	static uint32 wait_event = compat::wait_event("PglockSlot");
	sleeper sleeper(w.how.deadline, wait_event);

	for (;;)
	{
		if (int32 slot = take_free(w); slot != 0)
			return slot;
		if (!sleeper.sleep_until(steady_clock::now() + patience))
			return 0;
	}
}

int32
wait_for_any(const wanted &w)
{
	heavyweight_lock front = lock{w.key.with(any_slot), mode::exclusive};
	int32 slot = 0;
	auto wait = [&] {
		if (manager::wait(front, scope::transaction, w.how.deadline) == nullptr)
			return false;
		slot = take_when_free(w);
		manager::give_back(front, scope::transaction);
		manager::check_client_is_there();
		return slot != 0;
	};

	holds::wait_in_front(
		w.key.with(any_slot), w.how.mode, w.how.scope,
		{[](void *argument) { return (*static_cast<decltype(wait) *>(argument))(); }, &wait});
	return slot;
}

int32
wait(const wanted &w)
{
	naming_context naming("acquiring a slot of", w.key);
	int32 slot = w.slots > 1 ? wait_for_any(w)
							 : holds::wait(w.key.with(1), w.how.mode, w.how.scope, w.how.deadline);

	naming.end();
	return slot;
}

void
confirm(const wanted &w, int32 number)
{
	lock_key slot = w.key.with(number);

	pglock::confirm({&slot, 1}, w.how);
}
} // namespace

int32
acquire(const lock_key &key, int32 slots, const request &how)
{
	wanted w = {key, slots, how};

	check_may_take(w);

	int32 slot = take_at_once(w);

	if (slot == 0 && how.deadline != deadline::at_once)
	{
		check_others_hold_some(w);
		waiting::warn_of_old_snapshot("slot", key);
		slot = wait(w);
	}
	if (slot != 0)
		confirm(w, slot);
	return slot;
}

int32
acquire_or_raise(const lock_key &key, int32 slots, const request &how, FunctionCallInfo call)
{
	wanted w = {key, slots, how};

	check_may_take(w);

	int32 slot = take_at_once(w);

	if (slot == 0 && how.deadline != deadline::at_once)
	{
		check_others_hold_some(w);
		get_ready_to_wait("slot", key, how, call);
		slot = wait(w);
	}
	if (slot == 0)
		raise_timeout(key.with(any_slot));
	confirm(w, slot);
	return slot;
}
} // namespace pglock::slots
