/*
 * lock_table.hpp: all advisory locks of the database, as the lock manager has them at one moment.
 */
#pragma once

#include "lock.hpp"

#include <span>

namespace pglock::lock_table
{
/* A process that has to do with advisory locks, or a prepared transaction. */
struct process
{
	int number; /* among all PGPROCs */
	int pid;	/* 0: a prepared transaction */
	Oid role;
	const PGPROC *group; /* the leader of its parallel workers, or the process itself */
	int group_pid;
	LOCKMODE awaited;		/* the mode of the one lock it waits for, if it waits for one */
	TimestampTz wait_start; /* 0: the wait has only just begun */
	int place;				/* among those who wait for that lock, from 1 */
};

/* What one process has to do with one lock. */
struct row
{
	const process *by;
	const LOCK *lock; /* not to be looked into: it may be gone */
	lockable what;	  /* the two integers of a lock of the other space are in one lock_id */
	bool has_lock_id;
	bool waits;
	LOCKMASK held; /* modes that it holds */

	/* In front of those who wait for one of the slots of a key: what it holds is that place. */
	bool
	is_in_front() const
	{
		return what.slot == any_slot && !waits;
	}
};

struct snapshot
{
	std::span<const row> rows; /* those of one process follow each other */
	TimestampTz taken_at;
};

/*
 * Takes a snapshot, in the current memory context, and calls `meanwhile(snapshot, argument)` while
 * the lock table can't change: every lock of the server waits for it, so it has to be short. May
 * raise.
 */
snapshot take(void (*meanwhile)(const snapshot &, void *), void *argument);

/* A process that holds a lock, or a prepared transaction. */
struct holder
{
	int number; /* among all PGPROCs */
	int pid;	/* 0: a prepared transaction */
	Oid role;
};

/* Those who hold a lock, in whatever mode; for any_slot, a slot of that key. Each once. May raise.
 */
std::span<const holder> holders(const lockable &what);

/* Does any process wait for the lock; for any_slot, for a slot of that key. */
bool has_waiters(const lockable &what);

/* Sets the latches of those who hold the lock, in whatever mode. Never raises. */
void wake_holders(const LOCKTAG &tag);

/* Whom the processes that wait in a snapshot wait for. */
class blockers
{
  public:
	explicit blockers(const snapshot &of);

	/*
	 * The pids of those who hold the lock in a mode that conflicts, or wait for one that does and
	 * are ahead in the queue. As pg_blocking_pids() has them: 0 is a prepared transaction, and
	 * parallel workers have their leader's. Who waits for one of the slots of a key waits for those
	 * who hold one, too. Valid until the next call.
	 */
	std::span<const int> of(const row &waiting);

  private:
	void add_ahead(const row &waiting);
	void add_in_slots(const row &waiting);

	std::span<const row *> parties;	 /* of all locks that are waited for, sorted by lock */
	std::span<const row *> in_slots; /* all that hold slots, sorted by lock id, then by process */
	int *pids;
	size_t count;
};
} // namespace pglock::lock_table
