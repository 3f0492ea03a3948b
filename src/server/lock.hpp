/*
 * lock.hpp: PostgreSQL's lock manager, as far as advisory locks go.
 */
#pragma once

#include "lock_tag.hpp"

#include <cstring>

namespace pglock
{
enum class mode : uint8 { exclusive, shared };
enum class scope : uint8 { session, transaction };

constexpr mode modes[] = {mode::exclusive, mode::shared};
constexpr scope scopes[] = {scope::session, scope::transaction};

/* Anything that the lock manager can lock, in one of its modes. */
struct heavyweight_lock
{
	LOCKTAG tag;
	LOCKMODE lockmode;
};

/*
 * A lock in one mode, as the lock manager knows it: of a key, what pg_advisory_lock(lock_id) takes.
 */
struct lock : lockable
{
	pglock::mode mode;

	LOCKMODE
	lockmode() const
	{
		return mode == mode::exclusive ? ExclusiveLock : ShareLock;
	}

	operator heavyweight_lock() const
	{
		return {tag(), lockmode()};
	}
};

namespace manager
{
/*
 * Takes the lock if it is to be had at once; nullptr if not. If the lock table is full, it raises
 * 53200, or does not. A session that holds the lock in either mode at either scope counts as one
 * holder.
 */
LOCALLOCK *take(const heavyweight_lock &wanted, scope as, bool raise_if_full = true);

/*
 * Waits for a lock this session does not hold in that mode, until `deadline` at the latest.
 * nullptr: the deadline passed, and the transaction can go on. Whatever is raised, and when nullptr
 * is returned, the lock is not held.
 */
LOCALLOCK *wait(const heavyweight_lock &wanted, scope as, TimestampTz deadline);

/* Gives back one level that was taken at that scope; the caller knows there is one. */
void give_back(const heavyweight_lock &held, scope as);

/* Does this session hold the lock, at any scope. */
bool holds(const heavyweight_lock &asked);

/* How many have taken or asked for what is locked, in any mode. */
int parties(const LOCKTAG &tag);

/* Ends the session if its client has gone: it would hold what it waited for for nobody. */
void check_client_is_there();

/* This session's entry for the lock, nullptr if it does not hold it. */
LOCALLOCK *find(const lock &asked);

/*
 * Marks the lock as held without a break from now on. The lock manager clears the mark when the
 * lock is released and only looks at it for locks on relations, so it tells us whether a lock was
 * released behind our back.
 */
inline void
mark_unbroken(LOCALLOCK *entry)
{
	MarkLockClear(entry);
}

/*
 * Is `entry`, which was this session's entry for `asked`, still that, and has the lock been held
 * without a break since mark_unbroken()? Entries are never freed, only reused: one that is not in
 * use has no owners, a reused one has another tag or no mark.
 */
inline bool
is_unbroken(const LOCALLOCK *entry, const lock &asked)
{
	LOCKTAG tag = asked.tag();

	return entry->lockOwners != nullptr && entry->nLocks > 0 && entry->lockCleared &&
		   entry->tag.mode == asked.lockmode() && memcmp(&entry->tag.lock, &tag, sizeof(tag)) == 0;
}

/* How many levels of the entry are held at session scope. */
inline int64
session_levels(const LOCALLOCK *entry)
{
	for (const LOCALLOCKOWNER *owner = entry->lockOwners;
		 owner < entry->lockOwners + entry->numLockOwners; owner++)
		if (owner->owner == nullptr) /* the session is one owner, each (sub)transaction another */
			return owner->nLocks;
	return 0;
}
} // namespace manager
} // namespace pglock
