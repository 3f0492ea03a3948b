/*
 * hold_table.hpp: the memory of this session's books: one hold for each lock, found by what is
 * locked.
 *
 * Holds live in blocks, each of which goes with a chunk of the registry: the record that a hold
 * publishes is the one in its place. A hold keeps its address. Where there was no memory for a
 * chunk, nobody else sees the records of its block, until there is.
 */
#pragma once

#include "key.hpp"
#include "level_stack.hpp"
#include "lock.hpp"
#include "registry.hpp"

namespace pglock
{
/* What the books know of a lock in one mode, beside what is published. */
struct possession
{
	LOCALLOCK *entry; /* the lock manager's; nullptr: not held */
	bool has_transaction_levels;
	int64 of_builtins; /* levels of transaction scope that were there before the first of ours */
	int64 seen_levels; /* what the lock manager had when the books were last in line with it, of */
	int64 seen_of_session; /* both scopes and of session scope; 0: they may not be in line now */
};

/* What the books know of a lock. */
struct hold
{
	lockable what;
	registry::record *published;
	possession by_mode[2];
	level_stack levels;		   /* of session scope, taken through pglock */
	dlist_node of_transaction; /* in the list of those with levels of transaction scope */
	bool is_of_transaction;
	bool is_foreign; /* nothing of it was ever taken through pglock */
	hold *next_free; /* if it is not in use */
	bool in_use;
	bool is_waited_for;
	uint8 block;

	possession &
	in(mode m)
	{
		return by_mode[static_cast<int>(m)];
	}

	const possession &
	in(mode m) const
	{
		return by_mode[static_cast<int>(m)];
	}
};
static_assert(std::is_trivially_destructible_v<hold>);

namespace hold_table
{
/* The hold of that lock, nullptr if there is none. */
hold *find(const lockable &what);

/* Adds a hold for a lock that has none, and publishes it. Raises 53200. */
hold &add(const lock_key &key);

void remove(hold &h);

/* How many holds there are. */
uint32 size();

/* Calls function(hold) for each, which may remove that one; any(): until one answers true. */
template <typename Function> void for_each(Function function);
template <typename Function> bool any(Function function);

/* Gives back memory that has become too much. Never raises. */
void trim();

/* Where what belongs to holds is to be allocated. */
MemoryContext memory();

/* for for_each() */
struct block
{
	hold *holds;
	registry::record *records;
	hold *free;
	uint32 in_use;
	bool is_private; /* its records are not the registry's: others do not see them */
};
extern block blocks[registry::max_chunks];
extern int block_count;

template <typename Function>
bool
any(Function function)
{
	for (int i = 0; i < block_count; i++)
		for (uint32 j = 0, left = blocks[i].in_use; left > 0; j++)
			if (blocks[i].holds[j].in_use)
			{
				left--;
				if (function(blocks[i].holds[j]))
					return true;
			}
	return false;
}

template <typename Function>
void
for_each(Function function)
{
	any([&](hold &h) {
		function(h);
		return false;
	});
}
} // namespace hold_table
} // namespace pglock
