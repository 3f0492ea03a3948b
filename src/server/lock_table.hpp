/*
 * lock_table.hpp: all advisory locks of the database, as the lock manager has them at one moment.
 */
#pragma once

#include "lock.hpp"

#include <span>

namespace pglock::lock_table
{
/* What one process, or prepared transaction, has to do with one lock. */
struct row
{
	int process_number;
	int pid; /* 0: a prepared transaction */
	Oid role;
	const PGPROC *group; /* the leader of its parallel workers, or the process itself */
	int group_pid;
	LOCKTAG tag;
	LOCKMASK held;			/* modes it holds */
	LOCKMODE awaited;		/* the mode it waits for, or NoLock */
	TimestampTz wait_start; /* 0: the wait has only just begun */
	int place;				/* among those who wait for the lock, from 1; 0: it does not wait */
	const LOCK *lock;		/* not to be looked into: it may be gone */
};

/* Does the tag stand for a lock id: the other space of advisory locks has two integers. */
inline bool
has_lock_id(const LOCKTAG &tag)
{
	return tag.locktag_field4 == 1;
}

inline int64
lock_id_of(const LOCKTAG &tag)
{
	return static_cast<int64>(static_cast<uint64>(tag.locktag_field2) << 32 | tag.locktag_field3);
}

struct snapshot
{
	std::span<const row> rows; /* those of one process follow each other */
	TimestampTz taken_at;
};

/*
 * Takes a snapshot, in the current memory context, and calls `meanwhile(snapshot, argument)` while
 * the lock table can't change: every lock of the server waits for it. May raise.
 */
snapshot take(void (*meanwhile)(const snapshot &, void *), void *argument);

/* Whom the processes that wait in a snapshot wait for. */
class blockers
{
  public:
	explicit blockers(const snapshot &of);

	/*
	 * The pids of those who hold the lock in a mode that conflicts, or wait for one that does and
	 * are ahead in the queue. As pg_blocking_pids() has them: 0 is a prepared transaction, and
	 * parallel workers have their leader's. Valid until the next call.
	 */
	std::span<const int> of(const row &waiting);

  private:
	std::span<const row *> parties; /* of all locks that are waited for, sorted by lock */
	int *pids;
};
} // namespace pglock::lock_table
