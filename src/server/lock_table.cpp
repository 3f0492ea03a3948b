/*
 * lock_table.cpp: all advisory locks of the database, as the lock manager has them at one moment.
 *
 * GetLockStatusData() copies every lock of the server, and says neither who is ahead of whom in a
 * queue nor whose locks are whose. So this walks the lock table itself, by the lists of locks that
 * every process has, under the same lightweight locks.
 */
#include "lock_table.hpp"

#include "compat.hpp"

#include <algorithm>
#include <iterator>

namespace pglock::lock_table
{
namespace
{
/* The layout of pg_advisory_lock(), from lockfuncs.c. */

/* Is it a lock of this database that the functions for advisory locks can take: not a lease's. */
bool
is_advisory(const LOCKTAG &tag)
{
	return tag.locktag_type == LOCKTAG_ADVISORY && tag.locktag_field1 == MyDatabaseId &&
		   (tag.locktag_field4 == 1 || tag.locktag_field4 == 2);
}

bool
has_lock_id(const LOCKTAG &tag)
{
	return tag.locktag_field4 == 1;
}

int64
lock_id_of(const LOCKTAG &tag)
{
	return static_cast<int64>(static_cast<uint64>(tag.locktag_field2) << 32 | tag.locktag_field3);
}

/* Prepared transactions follow the processes, and are not in allProcCount. */
uint32
process_count()
{
	return ProcGlobal->allProcCount + static_cast<uint32>(max_prepared_xacts);
}

/* Rows being collected. */
class collector
{
  public:
	collector()
	{
		/*
		 * As many as the lock table is made for: nothing is to be moved while all others wait. What
		 * is not used stays address space.
		 */
		room = 2 * static_cast<size_t>(max_locks_per_xact) * (MaxBackends + max_prepared_xacts);
		rows = static_cast<row *>(MemoryContextAllocHuge(CurrentMemoryContext, sizeof(row) * room));
		processes = static_cast<process *>(palloc0(sizeof(process) * process_count()));
	}

	void
	add_locks_of(const PGPROC &proc)
	{
		for (int partition = 0; partition < NUM_LOCK_PARTITIONS; partition++)
			compat::for_each_lock(proc, partition, [&](const PROCLOCK &entry) {
				if (is_advisory(entry.tag.myLock->tag))
					add(proc, entry);
			});
	}

	std::span<const row>
	collected() const
	{
		return {rows, count};
	}

  private:
	void
	add(const PGPROC &proc, const PROCLOCK &entry)
	{
		const LOCK *lock = entry.tag.myLock;
		process &by = processes[number_of(proc)];
		bool waits = proc.waitLock == lock;

		by.number = number_of(proc);
		by.pid = proc.pid;
		by.role = proc.roleId;
		by.group = entry.groupLeader;
		by.group_pid = entry.groupLeader->pid;
		if (waits)
		{
			by.awaited = proc.waitLockMode;
			by.wait_start = static_cast<TimestampTz>(
				pg_atomic_read_u64(const_cast<pg_atomic_uint64 *>(&proc.waitStart)));
			if (by.place == 0)
				number_queue(*lock);
		}

		if (count == room)
		{
			room *= 2;
			rows = static_cast<row *>(repalloc_huge(rows, sizeof(row) * room));
		}
		rows[count++] = {&by,	lock,		   lock_id_of(lock->tag), has_lock_id(lock->tag),
						 waits, entry.holdMask};
	}

	void
	number_queue(const LOCK &lock)
	{
		int place = 0;

		compat::for_each_waiter(lock, [&](const PGPROC &waiting) {
			processes[number_of(waiting)].place = ++place;
		});
	}

	static int
	number_of(const PGPROC &proc)
	{
		return static_cast<int>(&proc - ProcGlobal->allProcs);
	}

	row *rows;
	size_t count = 0;
	size_t room;
	process *processes; /* by number */
};

/* The modes that conflict with one. */
LOCKMASK
conflicts_of(LOCKMODE lockmode)
{
	LOCKTAG tag = lock{0, mode::exclusive}.tag();

	return GetLockTagsMethodTable(&tag)->conflictTab[lockmode];
}
} // namespace

snapshot
take(void (*meanwhile)(const snapshot &, void *), void *argument)
{
	collector collecting;
	snapshot taken;

	/* as GetLockStatusData() does, whose comments say why in this order */
	for (int partition = 0; partition < NUM_LOCK_PARTITIONS; partition++)
		LWLockAcquire(LockHashPartitionLockByIndex(partition), LW_SHARED);

	for (uint32 i = 0; i < process_count(); i++)
		collecting.add_locks_of(ProcGlobal->allProcs[i]);
	taken = {collecting.collected(), GetCurrentTimestamp()};
	meanwhile(taken, argument);

	for (int partition = NUM_LOCK_PARTITIONS; --partition >= 0;)
		LWLockRelease(LockHashPartitionLockByIndex(partition));
	return taken;
}

/* Calls visit(process, entry, number) for each process that holds one lock or waits for it. */
template <typename Visit>
static void
for_each_party(const LOCKTAG &tag, Visit visit)
{
	uint32 hash = LockTagHashCode(&tag);
	auto partition = static_cast<int>(LockHashPartition(hash));

	LWLockAcquire(LockHashPartitionLock(hash), LW_SHARED);
	for (uint32 i = 0; i < process_count(); i++)
		compat::for_each_lock(ProcGlobal->allProcs[i], partition, [&](const PROCLOCK &entry) {
			if (memcmp(&entry.tag.myLock->tag, &tag, sizeof(tag)) == 0)
				visit(ProcGlobal->allProcs[i], entry, static_cast<int>(i));
		});
	LWLockRelease(LockHashPartitionLock(hash));
}

std::span<const holder>
holders(const LOCKTAG &tag)
{
	auto found = static_cast<holder *>(palloc(sizeof(holder) * process_count()));
	size_t count = 0;

	for_each_party(tag, [&](const PGPROC &by, const PROCLOCK &entry, int number) {
		if (entry.holdMask != 0)
			found[count++] = {number, by.pid, by.roleId};
	});
	return {found, count};
}

bool
has_waiters(const LOCKTAG &tag)
{
	bool found = false;

	for_each_party(tag, [&](const PGPROC &by, const PROCLOCK &entry, int) {
		found = found || by.waitLock == entry.tag.myLock;
	});
	return found;
}

void
wake_holders(const LOCKTAG &tag)
{
	if (manager::parties(tag) == 0)
		return;
	for_each_party(tag, [](const PGPROC &by, const PROCLOCK &entry, int) {
		if (entry.holdMask != 0)
			SetLatch(const_cast<Latch *>(&by.procLatch));
	});
}

blockers::blockers(const snapshot &of)
{
	auto locks = static_cast<const LOCK **>(palloc(sizeof(LOCK *) * (of.rows.size() + 1)));
	auto found = static_cast<const row **>(palloc(sizeof(row *) * (of.rows.size() + 1)));
	size_t waited_for = 0;
	size_t count = 0;

	for (const row &r : of.rows)
		if (r.waits)
			locks[waited_for++] = r.lock;
	std::sort(locks, locks + waited_for, std::less<>());
	for (const row &r : of.rows)
		if (std::binary_search(locks, locks + waited_for, r.lock, std::less<>()))
			found[count++] = &r;
	std::sort(found, found + count,
			  [](const row *a, const row *b) { return std::less<>()(a->lock, b->lock); });
	parties = {found, count};
	pids = static_cast<int *>(palloc(sizeof(int) * (count + 1)));
}

std::span<const int>
blockers::of(const row &waiting)
{
	LOCKMASK conflicts = conflicts_of(waiting.by->awaited);
	auto first = std::lower_bound(parties.begin(), parties.end(), waiting.lock,
								  [](const row *party, const LOCK *lock) {
									  return std::less<>()(party->lock, lock);
								  });
	size_t count = 0;

	for (auto place = first; place != parties.end() && (*place)->lock == waiting.lock; place++)
	{
		const row &other = **place;
		bool is_ahead = other.waits && other.by->place < waiting.by->place;

		if (other.by->group == waiting.by->group)
			continue;
		if ((other.held & conflicts) != 0 ||
			(is_ahead && (LOCKBIT_ON(other.by->awaited) & conflicts) != 0))
			pids[count++] = other.by->group_pid;
	}
	return {pids, count};
}
} // namespace pglock::lock_table
