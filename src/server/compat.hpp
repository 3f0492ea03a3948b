/*
 * compat.hpp: what differs between the versions of PostgreSQL.
 *
 * The only file with #if on PG_VERSION_NUM; the others read as if there were one PostgreSQL.
 */
#pragma once

#include "pg.hpp"

#if PG_VERSION_NUM < 150000
#error postgres_lock needs PostgreSQL 15 or later
#endif

namespace pglock::compat
{
inline LockAcquireResult
lock_acquire(const LOCKTAG &tag, LOCKMODE mode, bool session, bool no_wait, LOCALLOCK **local)
{
#if PG_VERSION_NUM >= 180000
	return LockAcquireExtended(&tag, mode, session, no_wait, true, local, false);
#else
	return LockAcquireExtended(&tag, mode, session, no_wait, true, local);
#endif
}

inline bool
lock_held_by_me(const LOCKTAG &tag, LOCKMODE mode)
{
#if PG_VERSION_NUM >= 170000
	return LockHeldByMe(&tag, mode, false);
#else
	return LockHeldByMe(&tag, mode);
#endif
}

/* 0: finite, 1: infinity, -1: -infinity; intervals are always finite before 17 */
inline int
interval_infinity([[maybe_unused]] const Interval *interval)
{
#if PG_VERSION_NUM >= 170000
	return INTERVAL_IS_NOEND(interval) ? 1 : INTERVAL_IS_NOBEGIN(interval) ? -1 : 0;
#else
	return 0;
#endif
}

/*
 * This process's number among those that may hold locks, which is its place among all PGPROCs.
 */
inline int
my_process_number()
{
	return static_cast<int>(MyProc - ProcGlobal->allProcs);
}

/* Calls function(entry) for each lock of the process in that partition of the lock table. */
template <typename Function>
void
for_each_lock(PGPROC *process, int partition, Function function)
{
#if PG_VERSION_NUM >= 160000
	dlist_iter place;

	dlist_foreach(place, &process->myProcLocks[partition])
		function(*dlist_container(PROCLOCK, procLink, place.cur));
#else
	SHM_QUEUE *queue = &process->myProcLocks[partition];

	for (Pointer place = SHMQueueNext(queue, queue, offsetof(PROCLOCK, procLink));
		 place != nullptr;)
	{
		auto entry = reinterpret_cast<PROCLOCK *>(place);

		function(*entry);
		place = SHMQueueNext(queue, &entry->procLink, offsetof(PROCLOCK, procLink));
	}
#endif
}

/* Calls function(process) for each process that waits for the lock, the first in the queue first.
 */
template <typename Function>
void
for_each_waiter(LOCK *lock, Function function)
{
#if PG_VERSION_NUM >= 160000
	dlist_iter place;

	dclist_foreach(place, &lock->waitProcs) function(*dlist_container(PGPROC, links, place.cur));
#else
	auto process = reinterpret_cast<PGPROC *>(lock->waitProcs.links.next);

	for (int i = 0; i < lock->waitProcs.size; i++)
	{
		function(*process);
		process = reinterpret_cast<PGPROC *>(process->links.next);
	}
#endif
}

#if PG_VERSION_NUM >= 170000
constexpr bool shared_memory_at_any_time = true;
#else
constexpr bool shared_memory_at_any_time = false; /* but when the server starts */
#endif

/* Shared memory of that name, made by `initialize` if it is not there. May raise. */
inline void *
shared_memory(const char *name, Size size, void (*initialize)(void *memory))
{
	bool found;
#if PG_VERSION_NUM >= 190000
	return GetNamedDSMSegment(
		name, size,
		[](void *memory, void *function) { reinterpret_cast<void (*)(void *)>(function)(memory); },
		&found, reinterpret_cast<void *>(initialize));
#elif PG_VERSION_NUM >= 170000
	return GetNamedDSMSegment(name, size, initialize, &found);
#else
	void *memory = ShmemInitStruct(name, size, &found);

	if (!found)
		initialize(memory);
	return memory;
#endif
}

inline int
new_lwlock_tranche([[maybe_unused]] const char *name)
{
#if PG_VERSION_NUM >= 190000
	return LWLockNewTrancheId(name);
#else
	return LWLockNewTrancheId();
#endif
}

/* To be called in each process: what the tranche is called where it is waited for. */
inline void
name_lwlock_tranche([[maybe_unused]] int tranche, [[maybe_unused]] const char *name)
{
#if PG_VERSION_NUM < 190000
	LWLockRegisterTranche(tranche, name);
#endif
}

} // namespace pglock::compat
