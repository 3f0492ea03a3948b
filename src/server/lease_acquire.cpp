/*
 * lease_acquire.cpp: the rules for taking leases.
 *
 * That a slot is free is looked up without a lock, so that others can go on checking its lease, and
 * then once more with the lock of the slot, which makes the answer last.
 */
#include "lease_acquire.hpp"

#include "compat.hpp"
#include "deadline.hpp"
#include "lease_expiry.hpp"
#include "lease_locks.hpp"
#include "lease_queue.hpp"
#include "sleeper.hpp"
#include "steady_clock.hpp"
#include "token.hpp"
#include "visibility.hpp"
#include "waiting.hpp"

namespace pglock::leases
{
namespace
{
using lease_expiry::end_of;
using lease_expiry::is_expired;

/* Ends what was in a slot, which is locked for taking. False: its lease has not expired. */
bool
clear_slot(lease_rows &rows, int64 key_id, int32 slot, const lease_clock::run &run)
{
	found_lease last = rows.newest(key_id, slot);

	return last.state == lease_state::none ||
		   rows.end_if(last, [&](const lease_row &row) { return is_expired(row, run); });
}

/* Takes the slot, which is locked for that. 0: its lease has not expired. */
int64
take_slot(const lock_key &key, const wanted &how, int32 slot)
{
	lease_rows rows;
	lease_row row = {};
	lease_clock::run run = lease_clock::current_run();

	if (clear_slot(rows, key.lock_id, slot, run))
	{
		row.key_id = key.lock_id;
		row.token = draw_token();
		row.expires = steady_clock::now() + how.ttl;
		row.ttl = how.ttl;
		row.run = run.id;
		row.acquired_at = GetCurrentTimestamp();
		row.renewed_at = row.acquired_at;
		row.database = MyDatabaseId;
		row.role = GetUserId();
		row.slot = slot;
		rows.insert(row, key.name, how.holder);
		/* so that this command itself can release it */
		CommandCounterIncrement();
		/* as releases do not; standbys are waited for as by any commit */
		ForceSyncCommit();
	}
	rows.close();
	return row.token;
}

/* Gives back the lock of a slot that could not be taken; otherwise it is kept. */
int64
take_slot_or_unlock(const lock_key &key, const wanted &how, int32 slot,
					const heavyweight_lock &lock)
{
	int64 token = take_slot(key, how, slot);

	if (token == 0)
		manager::give_back(lock, scope::transaction);
	else
		lease_queue::wake_at_end(key.lock_id);
	return token;
}

/* What a look at the slots of a key has brought. */
struct look
{
	int64 token;	  /* 0: none was to be had */
	int64 next_end;	  /* when the first of the leases expires */
	bool is_changing; /* transactions that have not ended have locked slots */
};

look
look_at_slot(const lock_key &key, const wanted &how, int32 slot)
{
	lease_rows rows;
	lease_clock::run run = lease_clock::current_run();
	found_lease last = rows.newest(key.lock_id, slot);

	rows.close();
	/* without the lock of the slot, which would keep others from checking that the lease is held */
	if (last.state == lease_state::there && !is_expired(last.row, run))
		return {0, end_of(last.row, run), false};

	heavyweight_lock lock = lease_locks::slot(key.lock_id, slot, lease_locks::use::take);

	if (manager::take(lock, scope::transaction) == nullptr)
		return {0, steady_clock::never, true};

	int64 token = take_slot_or_unlock(key, how, slot, lock);

	/* if it was renewed meanwhile, its end is still to be seen */
	return {token, steady_clock::now(), false};
}

/* Takes the first slot that is free, from one chosen at random on. */
look
look_at_slots(const lock_key &key, const wanted &how)
{
	look seen = {0, steady_clock::never, false};
	auto last = static_cast<uint64>(how.slots) - 1;
	auto first = static_cast<int32>(pg_prng_uint64_range(&pg_global_prng_state, 0, last));

	if (int64 opens_at = lease_clock::opens_at(); opens_at > steady_clock::now())
		return {0, opens_at, false};
	for (int32 i = 0; i < how.slots && seen.token == 0; i++)
	{
		look one = look_at_slot(key, how, (first + i) % how.slots + 1);

		/* which may swallow that a slot was released: whoever waits for the only one has no
		 * patience */
		if (how.slots > 1)
			CHECK_FOR_INTERRUPTS();
		seen = {one.token, Min(seen.next_end, one.next_end), seen.is_changing || one.is_changing};
	}
	return seen;
}

/* Waits for the end of what another transaction does to the only slot of a key. */
int64
wait_for_slot(const lock_key &key, const wanted &how, TimestampTz deadline)
{
	heavyweight_lock lock = lease_locks::slot(key.lock_id, 1, lease_locks::use::take);

	if (manager::wait(lock, scope::transaction, deadline) == nullptr)
		return 0;
	return take_slot_or_unlock(key, how, 1, lock);
}

/* For whoever is in front of the key's queue. */
int64
take_when_free(const lock_key &key, const wanted &how)
{
	/*
	 * A transaction that was prepared wakes nobody when it ends. And while one of several slots is
	 * looked at, a wait for the disk may swallow that another was released.
	 */
	constexpr int64 patience = USECS_PER_SEC;
	static uint32 wait_event = compat::wait_event("PglockLease");
	sleeper sleeper(how.deadline, wait_event);

	for (;;)
	{
		look seen = look_at_slots(key, how);

		if (how.slots > 1)
			seen.next_end = Min(seen.next_end, steady_clock::now() + patience);
		/* who waits in the lock manager is woken by it, and seen by its deadlock detection */
		else if (seen.token == 0 && seen.is_changing)
			seen = {wait_for_slot(key, how, sleeper.wall_clock_deadline()), steady_clock::now(),
					false};
		if (seen.token != 0)
			return seen.token;
		if (!sleeper.sleep_until(seen.next_end))
			return 0;
	}
}

/* Takes a lease if one is to be had at once, and nobody waits. */
int64
take_at_once(const lock_key &key, const wanted &how)
{
	naming_context naming("acquiring lease", key);
	heavyweight_lock gate = lease_locks::open_gate(key.lock_id);
	int64 token = 0;

	if (manager::take(gate, scope::transaction) != nullptr)
	{
		token = look_at_slots(key, how).token;
		manager::give_back(gate, scope::transaction);
	}
	naming.end();
	return token;
}

int64
wait(const lock_key &key, const wanted &how)
{
	naming_context naming("acquiring lease", key);
	heavyweight_lock gate = lease_locks::gate(key.lock_id);
	int64 token = 0;

	if (manager::wait(gate, scope::transaction, how.deadline) != nullptr)
	{
		token = take_when_free(key, how);
		manager::give_back(gate, scope::transaction);
		manager::check_client_is_there();
	}
	naming.end();
	return token;
}

/* Who holds the leases of a key, as far as the user may know; nullptr: nobody. */
const char *
describe_holders(const lock_key &key)
{
	lease_rows rows;
	lease_clock::run run = lease_clock::current_run();
	StringInfoData words;

	initStringInfo(&words);
	rows.for_each_of_key(key.lock_id, [&](const shown_lease &lease) {
		if (is_expired(lease.row, run))
			return;
		appendStringInfo(&words, "%stoken " INT64_FORMAT " (", words.len > 0 ? ", " : "",
						 lease.row.token);
		if (lease.holder != nullptr && may_see(lease.row.role))
			appendStringInfo(&words, "%s, ", text_to_cstring(lease.holder));
		appendStringInfo(&words, "since %s)", timestamptz_to_str(lease.row.acquired_at));
	});
	rows.close();
	return words.len > 0 ? words.data : nullptr;
}

[[noreturn]] void
raise_timeout(const lock_key &key)
{
	const char *holders = describe_holders(key);

	ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					errmsg("could not acquire lease %s in time", describe(key)),
					holders != nullptr ? errdetail("It is held with %s.", holders) : 0,
					errhint("The view pglock.leases shows who holds it, and until when.")));
}
} // namespace

int64
acquire(const lock_key &key, const wanted &how)
{
	int64 token = take_at_once(key, how);

	if (token != 0 || how.deadline == deadline::at_once)
		return token;
	waiting::warn_of_old_snapshot("lease", key);
	return wait(key, how);
}

int64
acquire_or_raise(const lock_key &key, const wanted &how, FunctionCallInfo call)
{
	int64 token = take_at_once(key, how);

	if (token == 0 && how.deadline != deadline::at_once)
	{
		waiting::drop_snapshot_or_warn("lease", key, call);
		token = wait(key, how);
	}
	if (token == 0)
		raise_timeout(key);
	return token;
}
} // namespace pglock::leases
