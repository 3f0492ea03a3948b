/*
 * acquire.cpp: the rules for taking locks and giving them back.
 *
 * What is refused, what is warned of, and when. A warning is a point where a cancel may strike, so
 * each is raised before the lock is taken or given back.
 */
#include "acquire.hpp"

#include "compat.hpp"
#include "context.hpp"
#include "deadline.hpp"
#include "holders.hpp"
#include "holds.hpp"
#include "lock_table.hpp"
#include "module.hpp"
#include "standby.hpp"
#include "waiting.hpp"
#include "writes.hpp"

#include <algorithm>

namespace pglock
{
namespace
{
const char *
adverb(mode m)
{
	return m == mode::shared ? "shared" : "exclusively";
}

void
check_allowed(const lock_key &key, const request &how)
{
	context::check_no_parallel_worker();
	if (standby::is_off_limits())
		ereport(ERROR, (errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
						errmsg("cannot acquire %s on a standby", describe_in_full(key)),
						errdetail("A lock on a standby does not exclude sessions on the primary."),
						errhint("Acquire it on the primary. To exclude sessions of this standby "
								"only, set \"pglock.allow_on_standby\" to on.")));
	if (how.scope == scope::session && !settings::session_scope)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("cannot acquire %s at session scope", describe_in_full(key)),
						errdetail("\"pglock.session_scope\" is off, because sessions are shared "
								  "between clients here."),
						errhint("Acquire it at transaction scope, in a transaction block, with "
								"scope => 'transaction'.")));
}

void
warn_of_scope(const lock_key &key, const request &how)
{
	if (how.scope != scope::transaction || !settings::warnings ||
		!context::transaction_ends_with_statement())
		return;
	ereport(WARNING, (errcode(ERRCODE_NO_ACTIVE_SQL_TRANSACTION),
					  errmsg("%s is held for this statement only", describe_in_full(key)),
					  errdetail("A lock at transaction scope ends with its transaction, and this "
								"statement is not in a transaction block."),
					  errhint("Acquire it after BEGIN, or at session scope.")));
}

/*
 * Warns if whoever gets a lock after us would miss what this transaction has done; of several locks
 * if there is no key.
 */
void
warn_of_unseen_writes(const lock_key *key = nullptr)
{
	writes::unseen unseen = settings::warnings ? writes::pending() : writes::unseen::nothing;

	if (unseen == writes::unseen::nothing)
		return;

	const char *what = key != nullptr ? psprintf("%s is", describe_in_full(*key)) : "locks are";

	ereport(WARNING, (errmsg("%s released before the transaction commits its writes", what),
					  unseen == writes::unseen::rows
						  ? errdetail("The next holder cannot see what this transaction wrote.")
						  : errdetail("The notifications it sent are delivered when it commits."),
					  errhint("Release after COMMIT, or acquire at transaction scope.")));
}

/* Warns if this session holds a lock otherwise than it was to be released. False: it does not hold
 * it. */
bool
warn_of_other_hold(const lock_key &key, std::optional<mode> only)
{
	for (mode m : modes)
	{
		if (!manager::holds(lock{key, m}))
			continue;
		if (only.value_or(m) == m)
			ereport(WARNING, (errmsg("%s is held at transaction scope", describe_in_full(key)),
							  errdetail("A lock at transaction scope is released when its "
										"transaction ends, not before.")));
		else
			ereport(WARNING, (errmsg("%s is not held %s", describe_in_full(key), adverb(*only)),
							  errdetail("This session holds it %s.", adverb(m))));
		return true;
	}
	return false;
}

/*
 * Says that there was nothing to release, as the built-in functions do, and why. Silent where
 * nobody holds the lock and this session has never taken one: whoever cleans up to be safe need not
 * know.
 */
void
warn_of_nothing_released(const lock_key &key, std::optional<mode> only)
{
	if (!settings::warnings || warn_of_other_hold(key, only))
		return;

	const char *others = describe_other_holders(key);

	if (others != nullptr || holds::has_taken_any())
		ereport(WARNING, (errmsg("%s is not held by this session", describe_in_full(key)),
						  others != nullptr ? errdetail("It is held by %s.", others) : 0));
}

bool
take(const lock_key &key, const request &how)
{
	naming_context naming("acquiring lock", key);
	bool held = holds::take(key, how.mode, how.scope);

	naming.end();
	return held;
}

bool
wait(const lock_key &key, const request &how)
{
	naming_context naming("acquiring lock", key);
	bool held = holds::wait(key, how.mode, how.scope, how.deadline);

	naming.end();
	return held;
}

/*
 * Does this session hold the lock shared, with nobody beside it, and want it exclusively. Those who
 * wait for it wait for this session, so it has nobody to wait for.
 */
bool
is_alone_with(const lock_key &key, const request &how)
{
	return how.mode == mode::exclusive && manager::holds(lock{key, mode::shared}) &&
		   lock_table::holders(key).size() == 1;
}

/* One that is not to wait, and was refused. */
bool
take_ahead_of_waiters(const lock_key &key, request how)
{
	if (!compat::refuses_behind_waiters || !is_alone_with(key, how))
		return false;
	/* a wait that ends at once, but for another reader that may have come in between */
	how.deadline = GetCurrentTimestamp() + 1000;
	return wait(key, how);
}

/* One lock of an acquire or acquire_all. */
bool
take_or_wait(const lock_key &key, const request &how)
{
	if (take(key, how))
		return true;
	if (how.deadline == deadline::at_once)
		return take_ahead_of_waiters(key, how);
	waiting::warn_of_old_snapshot("lock", key);
	return wait(key, how);
}

/* Takes those at the front of `keys` that can be had in time; says how many in `taken`. */
void
take_until_refused(std::span<const lock_key> keys, const request &how, volatile size_t &taken)
{
	while (taken < keys.size() && take_or_wait(keys[taken], how))
	{
		taken = taken + 1;
		CHECK_FOR_INTERRUPTS();
	}
}

void
undo_all(std::span<const lock_key> keys, const request &how)
{
	for (const lock_key &key : keys)
		holds::undo(key, how.mode, how.scope);
}

/* For an error that is passed on. */
void
undo_failed(std::span<const lock_key> keys, const request &how)
{
	/* levels of transaction scope go with the transaction, or with its subtransaction */
	if (how.scope == scope::session)
		undo_all(keys, how);
}

/* Sorts by lock id, so that all who take several locks do it in one order; drops repeated ones. */
std::span<lock_key>
in_order(std::span<lock_key> keys)
{
	std::sort(keys.begin(), keys.end(),
			  [](const lock_key &a, const lock_key &b) { return a.lock_id < b.lock_id; });
	auto end = std::unique(keys.begin(), keys.end(), [](const lock_key &a, const lock_key &b) {
		return a.lock_id == b.lock_id;
	});
	return keys.first(static_cast<size_t>(end - keys.begin()));
}
} // namespace

void
check_may_acquire(const lock_key &key, const request &how)
{
	check_allowed(key, how);
	warn_of_scope(key, how);
}

void
get_ready_to_wait(const char *noun, const lock_key &key, const request &how, FunctionCallInfo call)
{
	if (how.scope == scope::session)
		waiting::drop_snapshot_or_warn(noun, key, call);
	else
		waiting::warn_of_old_snapshot(noun, key);
}

void
raise_timeout(const lock_key &key)
{
	const char *others = describe_other_holders(key);
	const char *what = key.slot == any_slot ? "Slots are" : "It is";

	ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					errmsg("could not acquire %s in time", describe_in_full(key)),
					others != nullptr ? errdetail("%s held by %s.", what, others) : 0,
					errhint("%s", hint_at_parties(key))));
}

void
confirm_taken(std::span<const lock_key> keys, const request &how)
{
	PG_TRY();
	{
		confirmation::await(keys.size() == 1
								? psprintf("the acquisition of %s", describe_in_full(keys[0]))
								: psprintf("the acquisition of %zu locks", keys.size()),
							how.deadline);
		manager::check_client_is_there();
	}
	PG_CATCH();
	{
		undo_failed(keys, how);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

bool
acquire(const lock_key &key, const request &how)
{
	check_may_acquire(key, how);
	if (!take_or_wait(key, how))
		return false;
	confirm({&key, 1}, how);
	return true;
}

bool
acquire_all(std::span<lock_key> keys, const request &how)
{
	volatile size_t taken = 0;

	if (keys.empty())
		return true;
	check_may_acquire(keys[0], how);
	keys = in_order(keys);

	PG_TRY();
	{
		take_until_refused(keys, how, taken);
	}
	PG_CATCH();
	{
		undo_failed(keys.first(taken), how);
		PG_RE_THROW();
	}
	PG_END_TRY();

	if (taken < keys.size())
	{
		undo_all(keys.first(taken), how);
		return false;
	}
	confirm(keys, how);
	return true;
}

void
lock_or_raise(const lock_key &key, const request &how, FunctionCallInfo call)
{
	check_may_acquire(key, how);

	bool is_taken = take(key, how);

	if (!is_taken && how.deadline != deadline::at_once)
	{
		get_ready_to_wait("lock", key, how, call);
		is_taken = wait(key, how);
	}
	if (!is_taken)
		raise_timeout(key);
	confirm({&key, 1}, how);
}

bool
release(const lock_key &key, std::optional<mode> only)
{
	context::check_no_parallel_worker();

	std::optional<holds::level> newest = holds::newest(key, only);

	if (!newest)
	{
		warn_of_nothing_released(key, only);
		return false;
	}
	if (newest->is_last)
		warn_of_unseen_writes(&key);
	/* a cancel that is on its way had better find the lock held */
	CHECK_FOR_INTERRUPTS();
	holds::give_back(*newest);
	return true;
}

int64
release_all()
{
	context::check_no_parallel_worker();
	if (holds::has_levels())
		warn_of_unseen_writes();
	return holds::give_back_all();
}

int64
release_all(std::span<lock_key> keys)
{
	int64 levels = 0;

	context::check_no_parallel_worker();
	keys = in_order(keys);
	for (const lock_key &key : keys)
		levels += holds::levels(key);
	if (levels > 0)
		warn_of_unseen_writes();

	levels = 0;
	for (const lock_key &key : keys)
		levels += holds::give_back_all(key);
	return levels;
}
} // namespace pglock
