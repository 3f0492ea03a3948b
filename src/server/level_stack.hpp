/*
 * level_stack.hpp: in which order the levels of one lock were taken, and by which commands.
 *
 * A session may take one lock many times, in both modes, and gives the newest level back first.
 * Levels taken in a row in one mode by one command are one run, as are those of commands that have
 * ended; two runs have room in place, so that who does not mix modes needs no memory. What is
 * newest is given back at once, however many runs there are. Zeroed memory is an empty stack.
 */
#pragma once

#include "command.hpp"
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
		if (runs < runs_in_place + capacity_of_more)
			return;
		close_gaps(0);
		if (runs == runs_in_place + capacity_of_more)
			grow(context);
	}

	/* Never raises. */
	void
	push(mode taken, command::id by)
	{
		counts[static_cast<int>(taken)]++;
		if (!empty() && top() == taken && at(runs - 1).by == by)
			at(runs - 1).levels++;
		else
		{
			close_gaps(Max(runs - 2, 0));
			at(runs++) = {1, by, taken};
		}
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

	/* Removes the levels of that mode that failed commands took, and says how many they were. */
	int64
	remove_failed(mode taken)
	{
		int64 removed = 0;

		for (int i = 0; i < runs; i++)
			if (at(i).mode == taken && command::is_failed(at(i).by))
			{
				removed += at(i).levels;
				at(i).levels = 0;
			}
		counts[static_cast<int>(taken)] -= removed;
		if (removed > 0)
			close_gaps(0);
		return removed;
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
		command::id by;
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

	/* Would the levels of both runs be given back together, or never but one by one. */
	static bool
	belong_together(const run &a, const run &b)
	{
		return a.mode == b.mode &&
			   (a.by == b.by || (!command::may_go_on(a.by) && !command::may_go_on(b.by)));
	}

	/* From `first` on, drops empty runs and makes one of those that belong together. */
	void
	close_gaps(int first)
	{
		int kept = first;

		for (int i = first; i < runs; i++)
		{
			if (at(i).levels == 0)
				continue;
			if (kept > 0 && belong_together(at(kept - 1), at(i)))
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
