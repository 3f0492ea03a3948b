/*
 * compat.hpp: what differs between the versions of PostgreSQL.
 *
 * The only file with #if on PG_VERSION_NUM; the others read as if there were one PostgreSQL.
 *
 * The tests run on 15, 17, 18 and 19. What 15 and 17 have in common 16 has, too; where they differ
 * it has the lists of 17 (dlist for SHM_QUEUE), and all else as 15 has it.
 */
#pragma once

#include "pg.hpp"

#if PG_VERSION_NUM < 150000
#error postgres_lock needs PostgreSQL 15 or later
#endif

/* PG_MODULE_MAGIC, with what pg_get_loaded_modules() shows. PGLOCK_VERSION is from the Makefile. */
#if PG_VERSION_NUM >= 180000
#define PGLOCK_MODULE_MAGIC PG_MODULE_MAGIC_EXT(.name = "postgres_lock", .version = PGLOCK_VERSION)
#else
#define PGLOCK_MODULE_MAGIC PG_MODULE_MAGIC
#endif

namespace pglock::compat
{
inline LockAcquireResult
lock_acquire(const LOCKTAG &tag, LOCKMODE mode, bool session, bool no_wait, LOCALLOCK **local,
			 bool raise_if_full = true)
{
#if PG_VERSION_NUM >= 180000
	return LockAcquireExtended(&tag, mode, session, no_wait, raise_if_full, local, false);
#else
	return LockAcquireExtended(&tag, mode, session, no_wait, raise_if_full, local);
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

/*
 * Does the lock manager refuse a request that may not wait if anybody waits for the lock, even
 * where it would be granted ahead of those who wait.
 */
constexpr bool refuses_behind_waiters = PG_VERSION_NUM < 170000;

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

inline bool
is_background_worker()
{
#if PG_VERSION_NUM >= 170000
	return AmBackgroundWorkerProcess();
#else
	return IsBackgroundWorker;
#endif
}

/* Has the client sent more than the message that is being worked on. */
inline bool
has_more_from_client()
{
#if PG_VERSION_NUM >= 170000
	return pq_buffer_remaining_data() > 0;
#else
	return pq_buffer_has_data();
#endif
}

inline bool
domain_has_constraints(Oid type)
{
#if PG_VERSION_NUM >= 190000
	return DomainHasConstraints(type, nullptr);
#else
	return DomainHasConstraints(type);
#endif
}

/* Calls walker(node, context) for what is directly below a node of an expression. */
inline bool
walk_expression(Node *node, bool (*walker)(Node *, void *), void *context)
{
#if PG_VERSION_NUM >= 160000
	return expression_tree_walker(node, walker, context);
#else
	/* declared without its parameters, which C takes for any */
	auto untyped = reinterpret_cast<bool (*)()>(reinterpret_cast<void *>(walker));

	return expression_tree_walker(node, untyped, context);
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

/*
 * Calls function(element) for each element of a list, whose node is at `offset` in it: of any
 * version's lists, which in C have macros.
 */
template <typename Element, typename Node, typename Function>
void
for_each_element(const Node &head, Size offset, Function function)
{
	for (Node *node = head.next; node != nullptr && node != &head; node = node->next)
		function(*reinterpret_cast<Element *>(reinterpret_cast<char *>(node) - offset));
}

/* Calls function(entry) for each lock of the process in that partition of the lock table. */
template <typename Function>
void
for_each_lock(const PGPROC &process, int partition, Function function)
{
#if PG_VERSION_NUM >= 160000
	const dlist_node &head = process.myProcLocks[partition].head;
#else
	const SHM_QUEUE &head = process.myProcLocks[partition];
#endif

	for_each_element<PROCLOCK>(head, offsetof(PROCLOCK, procLink), function);
}

/* Calls function(process) for each process that waits for the lock, the first in the queue first.
 */
template <typename Function>
void
for_each_waiter(const LOCK &lock, Function function)
{
#if PG_VERSION_NUM >= 160000
	const dlist_node &head = lock.waitProcs.dlist.head;
#else
	const SHM_QUEUE &head = lock.waitProcs.links;
#endif
#if PG_VERSION_NUM >= 190000
	constexpr Size offset = offsetof(PGPROC, waitLink);
#else
	constexpr Size offset = offsetof(PGPROC, links);
#endif

	for_each_element<PGPROC>(head, offset, function);
}

/*
 * Calls visit(status, number) for each process of which pg_stat_activity knows; the number is what
 * the functions for statistics of sessions ask for. Valid until the snapshot is cleared.
 */
template <typename Visit>
void
for_each_backend_status(Visit visit)
{
	for (int i = 1; i <= pgstat_fetch_stat_numbackends(); i++)
	{
#if PG_VERSION_NUM >= 170000
		LocalPgBackendStatus *known = pgstat_get_local_beentry_by_index(i);

		visit(known->backendStatus, known->proc_number);
#elif PG_VERSION_NUM >= 160000
		LocalPgBackendStatus *known = pgstat_get_local_beentry_by_index(i);

		visit(known->backendStatus, known->backend_id);
#else
		visit(pgstat_fetch_stat_local_beentry(i)->backendStatus, i);
#endif
	}
}

/*
 * Calls visit(table) for each table to which the transaction has written, but for what was rolled
 * back to a savepoint. Needs pgstat_track_counts.
 */
template <typename Visit>
void
for_each_written_table(Visit visit)
{
	for (const PgStat_SubXactStatus *nest =
			 pgstat_get_xact_stack_level(GetCurrentTransactionNestLevel());
		 nest != nullptr; nest = nest->prev)
		for (const PgStat_TableXactStatus *t = nest->first; t != nullptr; t = t->next)
		{
#if PG_VERSION_NUM >= 160000
			Oid table = t->parent->id;
#else
			Oid table = t->parent->t_id;
#endif
			if (t->tuples_inserted > 0 || t->tuples_updated > 0 || t->tuples_deleted > 0 ||
				t->truncdropped)
				visit(table);
		}
}

/* As the server sees it, whatever this session has read of its settings. Under SyncRepLock. */
inline bool
has_synchronous_standbys()
{
#ifdef SYNC_STANDBY_INIT /* in minor versions since May 2025 */
	if ((WalSndCtl->sync_standbys_status & SYNC_STANDBY_INIT) == 0)
		return SyncRepStandbyNames != nullptr && *SyncRepStandbyNames != '\0';
	return (WalSndCtl->sync_standbys_status & SYNC_STANDBY_DEFINED) != 0;
#else
	return WalSndCtl->sync_standbys_defined;
#endif
}

inline IndexScanDesc
begin_index_scan(Relation heap, Relation index, Snapshot snapshot, int keys)
{
#if PG_VERSION_NUM >= 190000
	return index_beginscan(heap, index, snapshot, nullptr, keys, 0, SO_NONE);
#elif PG_VERSION_NUM >= 180000
	return index_beginscan(heap, index, snapshot, nullptr, keys, 0);
#else
	return index_beginscan(heap, index, snapshot, keys, 0);
#endif
}

/* Removes what nobody can see any more from a page, if there is much of it. */
inline void
prune_page(Relation heap, Buffer buffer)
{
#if PG_VERSION_NUM >= 190000
	Buffer map = InvalidBuffer;

	heap_page_prune_opt(heap, buffer, &map, false);
	if (BufferIsValid(map))
		ReleaseBuffer(map);
#else
	heap_page_prune_opt(heap, buffer);
#endif
}

/* How a wait of ours is shown in pg_stat_activity. */
inline uint32
wait_event([[maybe_unused]] const char *name)
{
#if PG_VERSION_NUM >= 170000
	return WaitEventExtensionNew(name);
#else
	return PG_WAIT_EXTENSION;
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
