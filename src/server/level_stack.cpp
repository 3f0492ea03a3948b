/*
 * level_stack.cpp: in which order the levels of one lock were taken.
 */
#include "level_stack.hpp"

namespace pglock
{
void
level_stack::reserve(MemoryContext context)
{
	if (runs < runs_in_place + capacity_of_more)
		return;

	int capacity = Max(4, 2 * capacity_of_more);
	Size bytes = static_cast<Size>(capacity) * sizeof(run);

	more =
		static_cast<run *>(more == nullptr ? MemoryContextAlloc(context, bytes) : repalloc(more, bytes));
	capacity_of_more = capacity;
}

void
level_stack::push(mode taken)
{
	if (!empty() && top() == taken)
		at(runs - 1).levels++;
	else
		at(runs++) = {1, taken};
}

void
level_stack::remove(mode taken, int64 count)
{
	int kept = runs;

	for (int i = runs - 1; i >= 0 && count > 0; i--)
	{
		if (at(i).mode != taken)
			continue;
		int64 removed = Min(at(i).levels, count);

		at(i).levels -= removed;
		count -= removed;
	}

	/* close the gaps; runs of one mode that meet become one */
	kept = 0;
	for (int i = 0; i < runs; i++)
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

void
level_stack::clear()
{
	if (more != nullptr)
		pfree(more);
	more = nullptr;
	capacity_of_more = 0;
	runs = 0;
}

bool
level_stack::empty() const
{
	return runs == 0;
}

int64
level_stack::count(mode taken) const
{
	int64 count = 0;

	for (int i = 0; i < runs; i++)
		if (at(i).mode == taken)
			count += at(i).levels;
	return count;
}

mode
level_stack::top() const
{
	return at(runs - 1).mode;
}

level_stack::run &
level_stack::at(int i)
{
	return i < runs_in_place ? first[i] : more[i - runs_in_place];
}

const level_stack::run &
level_stack::at(int i) const
{
	return i < runs_in_place ? first[i] : more[i - runs_in_place];
}
} // namespace pglock
