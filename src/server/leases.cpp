/*
 * leases.cpp: the rules for taking, renewing, checking and ending leases.
 *
 * Whether a lease has expired is judged with the locks held that make the answer last: the lock of
 * the slot for those who take, release and check, that of the buffer for who renews. A takeover
 * claims the row first, under the lock of its buffer: a renewal then comes before, and there is
 * nothing to take over, or after, and is refused.
 */
#include "leases.hpp"

#include "context.hpp"
#include "deadline.hpp"
#include "lease_commit.hpp"
#include "lease_locks.hpp"
#include "lease_queue.hpp"
#include "token.hpp"
#include "visibility.hpp"
#include "waiting.hpp"

namespace pglock::leases
{
namespace
{
bool
is_expired(const lease_row &row, const lease_clock::run &current)
{
	return end_of(row, current) <= lease_clock::now();
}

/* Raises 42501 unless the user may use the lease. */
void
check_is_open(const lock_key &key, const lease_row &row)
{
	if (!has_privs_of_role(GetUserId(), row.role))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("permission denied for lease %s", describe(key)),
						errdetail("It was taken by another role.")));
}

void
check_may_revoke(const lock_key &key, const lease_row &row)
{
	/* the rule of pg_terminate_backend() */
	if (!has_privs_of_role(GetUserId(), ROLE_PG_SIGNAL_BACKEND) || superuser_arg(row.role))
		check_is_open(key, row);
}

/* The lease of that token, if it is one of that key; raises 42501. */
found_lease
find(lease_rows &rows, const lock_key &key, int64 token)
{
	found_lease found = rows.of_token(token);

	if (found.state == lease_state::none || found.row.key_id != key.lock_id)
		return {};
	check_is_open(key, found.row);
	return found;
}

found_lease
find(const lock_key &key, int64 token)
{
	lease_rows rows;
	found_lease found = find(rows, key, token);

	rows.close();
	return found;
}

/* Locks the slot of a lease until the transaction ends. */
void
lock_slot(const char *doing, const lock_key &key, int32 slot, lease_locks::use what_for)
{
	naming_context naming(doing, key);
	heavyweight_lock lock = lease_locks::slot(key.lock_id, slot, what_for);

	if (manager::take(lock, scope::transaction) == nullptr)
		manager::wait(lock, scope::transaction, deadline::never);
	lease_queue::wake_at_end(key.lock_id);
	naming.end();
}

/* Deletes the lease of that token, whose slot is locked. False: it is not there any more. */
bool
remove(int64 token)
{
	lease_commit::release release;
	lease_rows rows;
	found_lease found = rows.of_token(token);

	if (found.state != lease_state::none)
		rows.remove(found);
	rows.close();
	release.end();
	return found.state != lease_state::none;
}

/*
 * Taking
 */

/* Ends what was in a slot, which is locked for taking. False: its lease has not expired. */
bool
clear_slot(lease_rows &rows, int64 key_id, int32 slot, const lease_clock::run &run)
{
	found_lease last = rows.newest(key_id, slot);

	if (last.state == lease_state::none)
		return true;

	bool is_claimed = rows.change(last, [&](lease_row &row) {
		if (!is_expired(row, run))
			return false;
		row.expires = 0;
		return true;
	});

	if (is_claimed)
		rows.remove(last);
	return is_claimed;
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
		row.expires = lease_clock::now() + how.ttl;
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
		/* whoever takes over from this server must know of it, whatever synchronous_commit is */
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
		return {0, lease_queue::never, true};

	int64 token = take_slot_or_unlock(key, how, slot, lock);

	/* if it was renewed meanwhile, its end is still to be seen */
	return {token, lease_clock::now(), false};
}

/* Takes the first slot that is free, from one chosen at random on. */
look
look_at_slots(const lock_key &key, const wanted &how)
{
	look seen = {0, lease_queue::never, false};
	auto last = static_cast<uint64>(how.slots) - 1;
	auto first = static_cast<int32>(pg_prng_uint64_range(&pg_global_prng_state, 0, last));

	if (int64 opens_at = lease_clock::opens_at(); opens_at > lease_clock::now())
		return {0, opens_at, false};
	for (int32 i = 0; i < how.slots && seen.token == 0; i++)
	{
		look one = look_at_slot(key, how, (first + i) % how.slots + 1);

		CHECK_FOR_INTERRUPTS();
		seen = {one.token, Min(seen.next_end, one.next_end), seen.is_changing || one.is_changing};
	}
	return seen;
}

/* Waits for the end of what another transaction does to the only slot of a key. */
int64
wait_for_slot(const lock_key &key, const wanted &how)
{
	heavyweight_lock lock = lease_locks::slot(key.lock_id, 1, lease_locks::use::take);

	if (manager::wait(lock, scope::transaction, how.deadline) == nullptr)
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
	lease_queue::sleeper sleeper(how.deadline);

	for (;;)
	{
		look seen = look_at_slots(key, how);

		if (how.slots > 1)
			seen.next_end = Min(seen.next_end, lease_clock::now() + patience);
		/* who waits in the lock manager is woken by it, and seen by its deadlock detection */
		else if (seen.token == 0 && seen.is_changing)
			seen = {wait_for_slot(key, how), lease_clock::now(), false};
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
		appendStringInfo(&words, "%stoken " INT64_FORMAT, words.len > 0 ? ", " : "",
						 lease.row.token);
		if (lease.holder != nullptr && may_see(lease.row.role))
			appendStringInfo(&words, " (%s)", text_to_cstring(lease.holder));
		appendStringInfo(&words, " since %s", timestamptz_to_str(lease.row.acquired_at));
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

[[noreturn]] void
raise_not_held(const lock_key &key, int64 token)
{
	ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("lease %s is not held with token " INT64_FORMAT, describe(key), token),
					errdetail("It was released, revoked, or taken over after it had expired."),
					errhint("Do not write what it was to protect. Acquire it again.")));
}

bool
renew(lease_rows &rows, const found_lease &lease, int64 ttl)
{
	lease_clock::run run = lease_clock::current_run();
	TimestampTz time = GetCurrentTimestamp();
	bool ends_sooner = false;

	bool is_renewed = rows.change(lease, [&](lease_row &row) {
		int64 end = end_of(row, run);

		/* 0: claimed by a takeover */
		if (row.expires == 0)
			return false;
		row.ttl = ttl != same_ttl ? ttl : row.ttl;
		row.expires = lease_clock::now() + row.ttl;
		row.run = run.id;
		row.renewed_at = time;
		ends_sooner = row.expires < end;
		return true;
	});

	if (ends_sooner)
		lease_queue::wake(lease.row.key_id);
	return is_renewed;
}
} // namespace

int64
end_of(const lease_row &row, const lease_clock::run &current)
{
	if (row.expires == 0 || row.run == current.id)
		return row.expires;
	/* what was renewed before the server was restarted may be lost: it has its whole time again */
	return current.began + row.ttl;
}

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

bool
renew(const lock_key &key, int64 token, int64 ttl)
{
	lease_rows rows;
	found_lease found = find(rows, key, token);
	bool is_renewed = found.state != lease_state::none && renew(rows, found, ttl);

	rows.close();
	return is_renewed;
}

bool
renew(int64 token, int64 ttl)
{
	lease_rows rows;
	found_lease found = rows.of_token(token);

	if (found.state != lease_state::none)
		check_is_open(key_of_id(found.row.key_id), found.row);

	bool is_renewed = found.state != lease_state::none && renew(rows, found, ttl);

	rows.close();
	return is_renewed;
}

bool
release(const lock_key &key, int64 token)
{
	found_lease found = find(key, token);

	if (found.state == lease_state::none)
		return false;
	lock_slot("releasing lease", key, found.row.slot, lease_locks::use::release);
	return remove(token);
}

void
check(const lock_key &key, int64 token)
{
	lease_rows rows;
	found_lease found = find(rows, key, token);

	if (found.state != lease_state::none)
	{
		lock_slot("checking lease", key, found.row.slot, lease_locks::use::check);
		found = rows.again(found);
	}
	rows.close();
	/* one that was claimed by a takeover, which was then rolled back, had expired */
	if (found.state == lease_state::none || found.row.expires == 0)
		raise_not_held(key, token);
}

bool
holds(const lock_key &key, int64 token)
{
	found_lease found = find(key, token);

	return found.state != lease_state::none && !is_expired(found.row, lease_clock::current_run());
}

int32
revoke(const lock_key &key)
{
	lease_clock::run run = lease_clock::current_run();
	List *leases = NIL;
	lease_rows rows;
	ListCell *cell;
	int32 revoked = 0;

	rows.for_each_of_key(key.lock_id, [&](const shown_lease &lease) {
		if (is_expired(lease.row, run))
			return;
		check_may_revoke(key, lease.row);

		auto copy = static_cast<lease_row *>(palloc(sizeof(lease_row)));

		*copy = lease.row;
		leases = lappend(leases, copy);
	});
	rows.close();
	foreach (cell, leases)
	{
		auto lease = static_cast<const lease_row *>(lfirst(cell));

		lock_slot("revoking lease", key, lease->slot, lease_locks::use::release);
		revoked += remove(lease->token) ? 1 : 0;
	}
	return revoked;
}
} // namespace pglock::leases
