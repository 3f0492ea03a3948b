/*
 * lock_map.hpp: a hash table from what can be locked to pointers.
 *
 * Open addressing with linear probing, at most half full; who is removed is replaced by those that
 * had to move on because of it, so there are no tombstones. A dynahash would do, but a session
 * looks here for every lock it takes or gives back. Zeroed memory is an empty map.
 */
#pragma once

#include "lock_tag.hpp"

namespace pglock
{
/* ids that came from names are as good as random, others may be anything: Fibonacci hashing */
inline uint64
scattered(const lockable &what)
{
	uint64 number = static_cast<uint64>(what.lock_id) + static_cast<uint32>(what.slot);

	return number * UINT64CONST(0x9E3779B97F4A7C15);
}

template <typename Value> class lock_map
{
  public:
	/* nullptr: not there. */
	Value *
	find(const lockable &what) const
	{
		return capacity != 0 ? places[place(what)].value : nullptr;
	}

	/* Makes sure that so many add() will find room. Raises 53200. */
	void
	reserve(MemoryContext context, uint32 more = 1)
	{
		if (2 * (count + more) > capacity)
			resize(context, Max(16, pg_nextpower2_32(2 * (count + more))), 0);
	}

	/* Adds what is not there. Never raises: reserve() comes first. */
	void
	add(const lockable &what, Value *value)
	{
		places[place(what)] = {{what.lock_id, what.slot}, value};
		count++;
	}

	/* Removes what is there. */
	void
	remove(const lockable &what)
	{
		uint32 gap = place(what);

		for (uint32 i = next(gap); places[i].value != nullptr; i = next(i))
		{
			uint32 home = first_place(places[i].what);

			/* may what is at i move to the gap: is its home not between the two */
			if (((i - home) & (capacity - 1)) >= ((i - gap) & (capacity - 1)))
			{
				places[gap] = places[i];
				gap = i;
			}
		}
		places[gap].value = nullptr;
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
		if (places != nullptr)
			pfree(places);
		*this = {};
	}

	uint32
	size() const
	{
		return count;
	}

  private:
	struct entry
	{
		lockable what;
		Value *value; /* nullptr: not in use */
	};

	uint32
	first_place(const lockable &what) const
	{
		return static_cast<uint32>(scattered(what) >> shift);
	}

	uint32
	next(uint32 i) const
	{
		return (i + 1) & (capacity - 1);
	}

	/* where that is, or where it would be added */
	uint32
	place(const lockable &what) const
	{
		uint32 i = first_place(what);

		while (places[i].value != nullptr && !(places[i].what == what))
			i = next(i);
		return i;
	}

	void
	resize(MemoryContext context, uint32 new_capacity, int flags)
	{
		lock_map grown = {};

		grown.places = static_cast<entry *>(
			MemoryContextAllocExtended(context, sizeof(entry) * new_capacity,
									   flags | MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO));
		if (grown.places == nullptr)
			return;
		grown.capacity = new_capacity;
		grown.shift = 64 - pg_leftmost_one_pos32(new_capacity);
		for (uint32 i = 0; i < capacity; i++)
			if (places[i].value != nullptr)
				grown.add(places[i].what, places[i].value);
		clear();
		*this = grown;
	}

	entry *places;
	uint32 capacity; /* a power of two */
	uint32 count;
	int shift; /* what leaves of 64 bits as many as there are in a place */
};
} // namespace pglock
