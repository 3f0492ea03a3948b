/*
 * level_stack.hpp: in which order the levels of one lock were taken.
 *
 * A session may take one lock many times, in both modes, and gives the newest level back first.
 * Levels taken in a row in one mode are one run; two runs have room in place, so that who does not
 * mix modes needs no memory. What is newest is given back at once, however many runs there are.
 * Zeroed memory is an empty stack.
 */
#pragma once

#include "lock.hpp"

namespace pglock
{
class level_stack
{
  public:
	/* Makes sure that the next push() finds room. Raises 53200. */
	void
	reserve(MemoryContext context)
	{
		if (runs == runs_in_place + capacity_of_more)
			grow(context);
	}

	/* Never raises. */
	void
	push(mode taken)
	{
		if (!empty() && top() == taken)
			at(runs - 1).levels++;
		else
			at(runs++) = {1, taken};
		counts[static_cast<int>(taken)]++;
	}

	/* Removes the newest levels of that mode, at most `count`. */
	void
	remove(mode taken, int64 count)
	{
		int changed = runs;

		count = Min(count, this->count(taken));
		counts[static_cast<int>(taken)] -= count;
		for (int i = runs - 1; count > 0; i--)
		{
			if (at(i).mode != taken)
				continue;

			int64 removed = Min(at(i).levels, count);

			at(i).levels -= removed;
			count -= removed;
			changed = i;
		}
		close_gaps(changed);
	}

	/* Forgets all levels and frees the memory. */
	void
	clear()
	{
		if (more != nullptr)
			pfree(more);
		more = nullptr;
		runs = capacity_of_more = 0;
		counts[0] = counts[1] = 0;
	}

	bool
	empty() const
	{
		return runs == 0;
	}

	int64
	count(mode taken) const
	{
		return counts[static_cast<int>(taken)];
	}

	/* The mode of the newest level; not for an empty stack. */
	mode
	top() const
	{
		return at(runs - 1).mode;
	}

  private:
	struct run
	{
		int64 levels;
		pglock::mode mode;
	};
	static constexpr int runs_in_place = 2;

	const run &
	at(int i) const
	{
		return i < runs_in_place ? first[i] : more[i - runs_in_place];
	}

	run &
	at(int i)
	{
		return i < runs_in_place ? first[i] : more[i - runs_in_place];
	}

	void
	grow(MemoryContext context)
	{
		int capacity = Max(4, 2 * capacity_of_more);
		Size bytes = static_cast<Size>(capacity) * sizeof(run);
		void *grown = more == nullptr ? MemoryContextAlloc(context, bytes) : repalloc(more, bytes);

		more = static_cast<run *>(grown);
		capacity_of_more = capacity;
	}

	/* Drops empty runs, of which there is none before `first`; those of one mode that meet become
	 * one. */
	void
	close_gaps(int first)
	{
		int kept = first;

		for (int i = first; i < runs; i++)
		{
			if (at(i).levels == 0)
				continue;
			if (kept > 0 && at(kept - 1).mode == at(i).mode)
				at(kept - 1).levels += at(i).levels;
			else
				at(kept++) = at(i);
		}
		runs = kept;
	}

	run first[runs_in_place];
	run *more;
	int runs;
	int capacity_of_more;
	int64 counts[2]; /* of levels, by mode */
};
} // namespace pglock
