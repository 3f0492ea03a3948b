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
		room = 64;
		rows = static_cast<row *>(palloc(sizeof(row) * room));
		places = static_cast<int *>(palloc0(sizeof(int) * process_count()));
	}

	void
	add_locks_of(PGPROC &process)
	{
		for (int partition = 0; partition < NUM_LOCK_PARTITIONS; partition++)
			compat::for_each_lock(process, partition, [&](const PROCLOCK &entry) {
				if (entry.tag.myLock->tag.locktag_type == LOCKTAG_ADVISORY &&
					entry.tag.myLock->tag.locktag_field1 == MyDatabaseId)
					add(process, entry);
			});
	}

	std::span<const row>
	collected() const
	{
		return {rows, count};
	}

  private:
	void
	add(PGPROC &process, const PROCLOCK &entry)
	{
		LOCK *lock = entry.tag.myLock;
		int number = number_of(process);
		bool waits = process.waitLock == lock;

		if (waits && places[number] == 0)
			number_queue(*lock);
		if (count == room)
		{
			room *= 2;
			rows = static_cast<row *>(repalloc_huge(rows, sizeof(row) * room));
		}
		rows[count++] = {number,
						 process.pid,
						 process.roleId,
						 entry.groupLeader,
						 entry.groupLeader->pid,
						 lock->tag,
						 entry.holdMask,
						 waits ? process.waitLockMode : NoLock,
						 static_cast<TimestampTz>(waits ? pg_atomic_read_u64(&process.waitStart)
														: 0),
						 waits ? places[number] : 0,
						 lock};
	}

	/* A process waits for one lock at a time, so its place needs no lock with it. */
	void
	number_queue(const LOCK &lock)
	{
		int place = 0;

		compat::for_each_waiter(lock, [&](const PGPROC &waiting) {
			places[number_of(waiting)] = ++place;
		});
	}

	static int
	number_of(const PGPROC &process)
	{
		return static_cast<int>(&process - ProcGlobal->allProcs);
	}

	row *rows;
	size_t count = 0;
	size_t room;
	int *places; /* by process number */
};
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
	if (meanwhile != nullptr)
		meanwhile(taken, argument);

	for (int partition = NUM_LOCK_PARTITIONS; --partition >= 0;)
		LWLockRelease(LockHashPartitionLockByIndex(partition));
	return taken;
}

blockers::blockers(const snapshot &of)
{
	auto locks = static_cast<const LOCK **>(palloc(sizeof(LOCK *) * (of.rows.size() + 1)));
	auto found = static_cast<const row **>(palloc(sizeof(row *) * (of.rows.size() + 1)));
	size_t waited_for = 0;
	size_t count = 0;

	for (const row &r : of.rows)
		if (r.place > 0)
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
	LOCKMASK conflicts = GetLockTagsMethodTable(&waiting.tag)->conflictTab[waiting.awaited];
	auto first = std::lower_bound(parties.begin(), parties.end(), waiting.lock,
								  [](const row *party, const LOCK *lock) {
									  return std::less<>()(party->lock, lock);
								  });
	size_t count = 0;

	for (auto place = first; place != parties.end() && (*place)->lock == waiting.lock; place++)
	{
		const row &other = **place;
		bool is_ahead = other.place > 0 && other.place < waiting.place;

		if (other.group == waiting.group)
			continue;
		if ((other.held & conflicts) != 0 ||
			(is_ahead && (LOCKBIT_ON(other.awaited) & conflicts) != 0))
			pids[count++] = other.group_pid;
	}
	return {pids, count};
}
} // namespace pglock::lock_table
