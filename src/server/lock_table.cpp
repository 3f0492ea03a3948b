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
/* Is it an advisory lock of this database that is not a lease's. */
bool
is_shown(const LOCKTAG &tag)
{
	return tag.locktag_type == LOCKTAG_ADVISORY && tag.locktag_field1 == MyDatabaseId &&
		   (tag.locktag_field4 == lock_space::integers || tag.locktag_field4 == lock_space::key ||
			slot_of(tag) != no_slot);
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
				if (is_shown(entry.tag.myLock->tag))
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
		rows[count++] = {&by,
						 lock,
						 {id_of(lock->tag), slot_of(lock->tag)},
						 lock->tag.locktag_field4 != lock_space::integers,
						 waits,
						 entry.holdMask};
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
	LOCKTAG tag = advisory_tag(0, lock_space::key);

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

/*
 * Calls visit(process, entry, number) for each process that holds a lock of that partition for
 * whose tag is_wanted(tag), or waits for it.
 */
template <typename IsWanted, typename Visit>
static void
for_each_party(int partition, IsWanted is_wanted, Visit visit)
{
	LWLockAcquire(LockHashPartitionLockByIndex(partition), LW_SHARED);
	for (uint32 i = 0; i < process_count(); i++)
		compat::for_each_lock(ProcGlobal->allProcs[i], partition, [&](const PROCLOCK &entry) {
			if (is_wanted(entry.tag.myLock->tag))
				visit(ProcGlobal->allProcs[i], entry, static_cast<int>(i));
		});
	LWLockRelease(LockHashPartitionLockByIndex(partition));
}

template <typename Visit>
static void
for_each_party(const LOCKTAG &tag, Visit visit)
{
	for_each_party(
		static_cast<int>(LockHashPartition(LockTagHashCode(&tag))),
		[&](const LOCKTAG &other) { return memcmp(&other, &tag, sizeof(tag)) == 0; }, visit);
}

/* The same for the slots of a key. */
template <typename Visit>
static void
for_each_party_in_slots(int64 lock_id, Visit visit)
{
	for (int partition = 0; partition < NUM_LOCK_PARTITIONS; partition++)
		for_each_party(
			partition,
			[=](const LOCKTAG &other) {
				return is_shown(other) && id_of(other) == lock_id && slot_of(other) > 0;
			},
			visit);
}

std::span<const holder>
holders(const lockable &what)
{
	auto found = static_cast<holder *>(palloc0(sizeof(holder) * process_count()));
	auto is_found = static_cast<bool *>(palloc0(process_count()));
	size_t count = 0;
	auto note = [&](const PGPROC &by, const PROCLOCK &entry, int number) {
		if (entry.holdMask != 0 && !is_found[number])
			found[count++] = {number, by.pid, by.roleId};
		is_found[number] |= entry.holdMask != 0;
	};

	if (what.slot == any_slot)
		for_each_party_in_slots(what.lock_id, note);
	else
		for_each_party(what.tag(), note);
	return {found, count};
}

bool
has_waiters(const lockable &what)
{
	bool found = false;

	for_each_party(what.tag(), [&](const PGPROC &by, const PROCLOCK &entry, int) {
		found = found || what.slot == any_slot || by.waitLock == entry.tag.myLock;
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

/* Orders rows by lock. */
static bool
by_lock(const row *a, const row *b)
{
	return std::less<>()(a->lock, b->lock);
}

/* Orders rows by lock id, and those of one process one after the other. */
static bool
by_lock_id(const row *a, const row *b)
{
	return a->what.lock_id != b->what.lock_id ? a->what.lock_id < b->what.lock_id
											  : std::less<>()(a->by, b->by);
}

/* Those of the rows for which is_wanted(row), in order. */
template <typename IsWanted>
static std::span<const row *>
sorted(std::span<const row> rows, IsWanted is_wanted, bool (*order)(const row *, const row *))
{
	auto found = static_cast<const row **>(palloc(sizeof(row *) * (rows.size() + 1)));
	size_t count = 0;

	for (const row &r : rows)
		if (is_wanted(r))
			found[count++] = &r;
	std::sort(found, found + count, order);
	return {found, count};
}

blockers::blockers(const snapshot &of)
{
	std::span<const row *> waiting = sorted(
		of.rows, [](const row &r) { return r.waits; }, by_lock);
	bool any_waits_for_slots = std::any_of(of.rows.begin(), of.rows.end(),
										   [](const row &r) { return r.what.slot == any_slot; });

	parties = sorted(
		of.rows,
		[&](const row &r) {
			return std::binary_search(waiting.begin(), waiting.end(), &r, by_lock);
		},
		by_lock);
	in_slots = sorted(
		of.rows,
		[&](const row &r) { return any_waits_for_slots && r.what.slot > 0 && r.held != 0; },
		by_lock_id);
	pids = static_cast<int *>(palloc(sizeof(int) * (of.rows.size() + 1)));
}

void
blockers::add_ahead(const row &waiting)
{
	LOCKMASK conflicts = conflicts_of(waiting.by->awaited);
	auto place = std::lower_bound(parties.begin(), parties.end(), &waiting, by_lock);

	for (; place != parties.end() && (*place)->lock == waiting.lock; place++)
	{
		const row &other = **place;
		bool is_ahead = other.waits && other.by->place < waiting.by->place;

		if (other.by->group == waiting.by->group)
			continue;
		if ((other.held & conflicts) != 0 ||
			(is_ahead && (LOCKBIT_ON(other.by->awaited) & conflicts) != 0))
			pids[count++] = other.by->group_pid;
	}
}

void
blockers::add_in_slots(const row &waiting)
{
	const process *last = waiting.by;
	int *end_of_queue = pids + count;
	auto place = std::partition_point(in_slots.begin(), in_slots.end(), [&](const row *r) {
		return r->what.lock_id < waiting.what.lock_id;
	});

	for (; place != in_slots.end() && (*place)->what.lock_id == waiting.what.lock_id; place++)
	{
		int pid = (*place)->by->group_pid;

		/* who holds several, or one and waits ahead for another, is in the way once */
		if ((*place)->by != last && (*place)->by->group != waiting.by->group &&
			std::find(pids, end_of_queue, pid) == end_of_queue)
			pids[count++] = pid;
		last = (*place)->by;
	}
}

std::span<const int>
blockers::of(const row &waiting)
{
	count = 0;
	if (!waiting.is_in_front())
		add_ahead(waiting);
	if (waiting.what.slot == any_slot)
		add_in_slots(waiting);
	return {pids, count};
}
} // namespace pglock::lock_table
