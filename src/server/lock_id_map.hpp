/*
 * lock_id_map.hpp: a hash table from lock ids to pointers.
 *
 * Open addressing with linear probing, at most half full; who is removed is replaced by those that
 * had to move on because of it, so there are no tombstones. A dynahash would do, but a session
 * looks here for every lock it takes or gives back. Zeroed memory is an empty map.
 */
#pragma once

#include "pg.hpp"

namespace pglock
{
template <typename Value> class lock_id_map
{
  public:
	/* nullptr: not there. */
	Value *
	find(int64 lock_id) const
	{
		return capacity != 0 ? slots[place(lock_id)].value : nullptr;
	}

	/* Makes sure that so many add() will find room. Raises 53200. */
	void
	reserve(MemoryContext context, uint32 more = 1)
	{
		if (2 * (count + more) > capacity)
			resize(context, Max(16, pg_nextpower2_32(2 * (count + more))), 0);
	}

	/* Adds a lock id that is not there. Never raises: reserve() comes first. */
	void
	add(int64 lock_id, Value *value)
	{
		slots[place(lock_id)] = {lock_id, value};
		count++;
	}

	/* Removes a lock id that is there. */
	void
	remove(int64 lock_id)
	{
		uint32 gap = place(lock_id);

		for (uint32 i = next(gap); slots[i].value != nullptr; i = next(i))
		{
			uint32 home = first_place(slots[i].lock_id);

			/* may what is at i move to the gap: is its home not between the two */
			if (((i - home) & (capacity - 1)) >= ((i - gap) & (capacity - 1)))
			{
				slots[gap] = slots[i];
				gap = i;
			}
		}
		slots[gap].value = nullptr;
		count--;
	}

	/* Gives memory back if the map has become small. Never raises. */
	void
	shrink(MemoryContext context)
	{
		if (capacity > 64 && 16 * count < capacity)
			resize(context, Max(64, capacity / 4), MCXT_ALLOC_NO_OOM);
	}

	void
	clear()
	{
		if (slots != nullptr)
			pfree(slots);
		*this = {};
	}

	uint32
	size() const
	{
		return count;
	}

  private:
	struct slot
	{
		int64 lock_id;
		Value *value; /* nullptr: not in use */
	};

	/* ids that came from names are as good as random, others may be anything: Fibonacci hashing */
	uint32
	first_place(int64 lock_id) const
	{
		return static_cast<uint32>(static_cast<uint64>(lock_id) * UINT64CONST(0x9E3779B97F4A7C15) >>
								   shift);
	}

	uint32
	next(uint32 i) const
	{
		return (i + 1) & (capacity - 1);
	}

	/* where that lock id is, or where it would be added */
	uint32
	place(int64 lock_id) const
	{
		uint32 i = first_place(lock_id);

		while (slots[i].value != nullptr && slots[i].lock_id != lock_id)
			i = next(i);
		return i;
	}

	void
	resize(MemoryContext context, uint32 new_capacity, int flags)
	{
		lock_id_map grown = {};

		grown.slots = static_cast<slot *>(
			MemoryContextAllocExtended(context, sizeof(slot) * new_capacity,
									   flags | MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO));
		if (grown.slots == nullptr)
			return;
		grown.capacity = new_capacity;
		grown.shift = 64 - pg_leftmost_one_pos32(new_capacity);
		for (uint32 i = 0; i < capacity; i++)
			if (slots[i].value != nullptr)
				grown.add(slots[i].lock_id, slots[i].value);
		clear();
		*this = grown;
	}

	slot *slots;
	uint32 capacity; /* a power of two */
	uint32 count;
	int shift; /* what leaves of 64 bits as many as there are in a place */
};
} // namespace pglock
