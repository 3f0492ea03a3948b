/*
 * row_index.hpp: finds what a process has to do with a lock among its rows of the lock table.
 *
 * Open addressing with linear probing over the numbers of the rows, at most half full: with many
 * locks, small memory is fast memory.
 */
#pragma once

#include "lock_map.hpp"
#include "lock_table.hpp"

namespace pglock
{
class row_index
{
  public:
	/* Of rows that stay where they are. In the current memory context. Raises 53200. */
	explicit row_index(std::span<const lock_table::row> of) : rows(of)
	{
		auto capacity = pg_nextpower2_64(2 * rows.size());

		shift = 64 - pg_leftmost_one_pos64(capacity);
		places = static_cast<uint32 *>(
			MemoryContextAllocExtended(CurrentMemoryContext, sizeof(uint32) * capacity,
									   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO));
		for (size_t i = 0; i < rows.size(); i++)
			if (rows[i].has_lock_id)
				places[place(rows[i].what)] = static_cast<uint32>(i) + 1;
	}

	/* Calls visit(number) with the number of the row of that lock, if there is one. */
	template <typename Visit>
	void
	find(const lockable &what, Visit visit) const
	{
		if (uint32 found = places[place(what)]; found != 0)
			visit(found - 1);
	}

	void
	free()
	{
		pfree(places);
	}

  private:
	/* where that row is, or where it would be added */
	uint64
	place(const lockable &what) const
	{
		uint64 i = scattered(what) >> shift;

		while (places[i] != 0 && !(rows[places[i] - 1].what == what))
			i = (i + 1) & (~uint64{0} >> shift);
		return i;
	}

	std::span<const lock_table::row> rows;
	uint32 *places; /* 0: not in use */
	int shift;		/* what leaves of 64 bits as many as there are in a place */
};
} // namespace pglock
