/*
 * level_stack.hpp: in which order the levels of one lock were taken.
 *
 * A session may take one lock many times, in both modes, and gives the newest level back first.
 * Levels taken in a row in one mode are one run; two runs have room in place, so that who does not
 * mix modes needs no memory.
 */
#pragma once

#include "lock.hpp"

namespace pglock
{
class level_stack
{
  public:
	/* Makes sure that the next push() finds room. Raises 53200. */
	void reserve(MemoryContext context);

	/* Never raises. */
	void push(mode taken);

	/* Removes the newest levels of that mode, at most `count`. */
	void remove(mode taken, int64 count);

	/* Forgets all levels and frees the memory. */
	void clear();

	bool empty() const;
	int64 count(mode taken) const;

	/* The mode of the newest level; not for an empty stack. */
	mode top() const;

  private:
	struct run
	{
		int64 levels;
		pglock::mode mode;
	};
	static constexpr int runs_in_place = 2;

	run &at(int i);
	const run &at(int i) const;

	run first[runs_in_place];
	run *more;
	int runs;
	int capacity_of_more;
};
} // namespace pglock
