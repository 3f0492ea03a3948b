/*
 * arena.hpp: memory for very many small things, which goes with its context.
 */
#pragma once

#include "pg.hpp"

namespace pglock
{
class arena
{
  public:
	arena() = default;
	explicit arena(MemoryContext of) : context(of)
	{
	}

	/* Room for so many bytes, of which take() then takes as many as are needed. Raises 53200. */
	void *
	reserve(Size bytes)
	{
		if (left < MAXALIGN(bytes))
			add_block(MAXALIGN(bytes));
		return free;
	}

	void
	take(Size bytes)
	{
		free += MAXALIGN(bytes);
		left -= MAXALIGN(bytes);
	}

  private:
	void
	add_block(Size bytes)
	{
		constexpr Size smallest = 8 * 1024;
		constexpr Size largest = 1024 * 1024;

		block = Max(bytes, Max(smallest, Min(2 * block, largest)));
		free = static_cast<char *>(MemoryContextAlloc(context, block));
		left = block;
	}

	MemoryContext context = nullptr;
	char *free = nullptr;
	Size left = 0;
	Size block = 0; /* how large the last one was */
};
} // namespace pglock
