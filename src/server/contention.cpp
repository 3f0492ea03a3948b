/*
 * contention.cpp: statistics of the waits for locks, by key.
 */
#include "contention.hpp"

#include "shared.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace pglock::contention
{
namespace
{
constexpr int none = -1;

/* One key, in three lists: those with its hash, all by their last wait, or those not in use. */
struct entry
{
	Oid database;
	statistics of;
	int next_in_bucket; /* or of those not in use */
	int older;
	int newer;
};

/* All of the shared memory: as many buckets as entries follow the entries. */
struct area
{
	LWLock lock;
	int keys;
	int keys_in_use;
	int64 evictions;
	TimestampTz last_eviction_at;
	int unused; /* the first of a list */
	int oldest;
	int newest;
	entry entries[FLEXIBLE_ARRAY_MEMBER];

	int &
	bucket(Oid database, const lockable &what)
	{
		uint64 number =
			static_cast<uint64>(what.lock_id) ^ database ^ static_cast<uint32>(what.slot);
		uint64 hash = number * UINT64CONST(0x9E3779B97F4A7C15);

		return reinterpret_cast<int *>(entries + keys)[(hash >> 32) % static_cast<uint64>(keys)];
	}
};

area *shared = nullptr;

/*
 * The wait that this session is in. A copy of the key: when the session ends the wait is counted by
 * a callback, and another one may have freed the memory of the transaction before.
 */
struct
{
	TimestampTz since; /* 0: none */
	lockable what;
	bool has_name;
	shown_name_buffer name;
} waiting;

void
make_newest(int i)
{
	entry &e = shared->entries[i];

	e.older = shared->newest;
	e.newer = none;
	(shared->newest == none ? shared->oldest : shared->entries[shared->newest].newer) = i;
	shared->newest = i;
}

void
take_from_order(int i)
{
	const entry &e = shared->entries[i];

	(e.newer == none ? shared->newest : shared->entries[e.newer].older) = e.older;
	(e.older == none ? shared->oldest : shared->entries[e.older].newer) = e.newer;
}

void
forget(int i)
{
	entry &e = shared->entries[i];
	int *place = &shared->bucket(e.database, e.of.what);

	while (*place != i)
		place = &shared->entries[*place].next_in_bucket;
	*place = e.next_in_bucket;
	take_from_order(i);
	e.next_in_bucket = shared->unused;
	shared->unused = i;
	shared->keys_in_use--;
}

/* The statistics of a key of this database, which are begun if there are none. */
statistics &
find_or_add(const lockable &what, TimestampTz now)
{
	int *bucket = &shared->bucket(MyDatabaseId, what);

	for (int i = *bucket; i != none; i = shared->entries[i].next_in_bucket)
	{
		entry &e = shared->entries[i];

		if (e.of.what != what || e.database != MyDatabaseId)
			continue;
		take_from_order(i);
		make_newest(i);
		return e.of;
	}

	if (shared->unused == none)
	{
		forget(shared->oldest);
		shared->evictions++;
		shared->last_eviction_at = now;
	}

	int added = shared->unused;
	entry &e = shared->entries[added];

	shared->unused = e.next_in_bucket;
	e.database = MyDatabaseId;
	e.of = {};
	e.of.what = what;
	e.of.since = now;
	e.next_in_bucket = *bucket;
	*bucket = added;
	make_newest(added);
	shared->keys_in_use++;
	return e.of;
}

/* Puts this session's role first. */
void
remember_role(statistics &s)
{
	Oid pushed = MyProc->roleId;

	for (Oid &role : s.roles)
	{
		std::swap(role, pushed);
		if (pushed == MyProc->roleId || pushed == InvalidOid)
			return;
	}
}

size_t
bucket_of(int64 wait_time)
{
	return static_cast<size_t>(
		std::lower_bound(std::begin(longest_of_bucket), std::end(longest_of_bucket), wait_time,
						 [](int64 longest, int64 time) { return 1000 * longest < time; }) -
		std::begin(longest_of_bucket));
}

void
add_wait(statistics &s, outcome end, TimestampTz now)
{
	int64 wait_time = Max(now - waiting.since, 0);

	/* who waited for the bare id may not know the name */
	if (waiting.has_name)
	{
		if (!s.has_name)
			memcpy(s.name, waiting.name, sizeof(s.name));
		s.has_name = true;
		remember_role(s);
	}
	s.waits++;
	s.total_wait_time += wait_time;
	s.max_wait_time = Max(s.max_wait_time, wait_time);
	s.by_duration[bucket_of(wait_time)]++;
	s.timeouts += end == outcome::timeout;
	s.deadlocks += end == outcome::deadlock;
	s.cancels += end == outcome::cancel;
	s.last_wait_at = now;
}

void
end_wait_with_session(int, Datum)
{
	end_wait(outcome::cancel);
}

bool
is_on()
{
	return shared::is_on() && shared->keys > 0;
}
} // namespace

TimestampTz
begin_wait(const lock_key &key)
{
	static bool is_registered = false;

	if (!is_registered)
	{
		before_shmem_exit(end_wait_with_session, 0);
		is_registered = true;
	}
	waiting.since = GetCurrentTimestamp();
	/* a wait for the only slot is one for any of them */
	waiting.what = {key.lock_id, key.slot == no_slot ? no_slot : any_slot};
	waiting.has_name = key.name.data() != nullptr;
	if (waiting.has_name)
		show_name(key.name, waiting.name);
	return waiting.since;
}

void
end_wait(outcome end)
{
	if (waiting.since == 0)
		return;
	if (end != outcome::none && is_on())
	{
		LWLockAcquire(&shared->lock, LW_EXCLUSIVE);

		/* read under the lock, so that those who come later do not have earlier times */
		TimestampTz now = GetCurrentTimestamp();

		add_wait(find_or_add(waiting.what, now), end, now);
		LWLockRelease(&shared->lock);
	}
	waiting.since = 0;
}

outcome
outcome_of_error()
{
	switch (geterrcode())
	{
		case ERRCODE_LOCK_NOT_AVAILABLE:
			return outcome::timeout;
		case ERRCODE_T_R_DEADLOCK_DETECTED:
			return outcome::deadlock;
		case ERRCODE_OUT_OF_MEMORY: /* as are "out of shared memory", and too many locks */
			return outcome::none;
		default:
			return outcome::cancel;
	}
}

void
for_each(void (*visit)(const statistics &, void *), void *argument)
{
	if (!is_on())
		return;

	/* what is done with them may take long, or raise: that is for after the lock */
	auto copies = static_cast<statistics *>(
		MemoryContextAllocHuge(CurrentMemoryContext,
							   sizeof(statistics) * static_cast<Size>(shared->keys)));
	int count = 0;

	LWLockAcquire(&shared->lock, LW_SHARED);
	for (int i = shared->newest; i != none; i = shared->entries[i].older)
		if (shared->entries[i].database == MyDatabaseId)
			copies[count++] = shared->entries[i].of;
	LWLockRelease(&shared->lock);

	for (int i = 0; i < count; i++)
		visit(copies[i], argument);
	pfree(copies);
}

std::optional<table_info>
info()
{
	table_info answer;

	if (!is_on())
		return std::nullopt;
	LWLockAcquire(&shared->lock, LW_SHARED);
	answer = {shared->keys_in_use, shared->keys, shared->evictions, shared->last_eviction_at};
	LWLockRelease(&shared->lock);
	return answer;
}

void
reset()
{
	if (!is_on())
		return;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = shared->newest; i != none;)
	{
		int older = shared->entries[i].older;

		if (shared->entries[i].database == MyDatabaseId)
			forget(i);
		i = older;
	}
	LWLockRelease(&shared->lock);
}

Size
shared_size(int keys)
{
	return add_size(offsetof(area, entries),
					mul_size(sizeof(entry) + sizeof(int), static_cast<Size>(keys)));
}

void
initialize(void *memory, int keys, int tranche)
{
	auto made = static_cast<area *>(memory);

	memset(memory, 0, shared_size(keys));
	LWLockInitialize(&made->lock, tranche);
	made->keys = keys;
	made->oldest = made->newest = made->unused = none;
	for (int i = keys - 1; i >= 0; i--)
	{
		made->entries[i].next_in_bucket = made->unused;
		made->unused = i;
		reinterpret_cast<int *>(made->entries + keys)[i] = none;
	}
}

void
attach(void *memory)
{
	shared = static_cast<area *>(memory);
}
} // namespace pglock::contention
