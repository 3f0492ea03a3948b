/*
 * hold_table.cpp: the memory of this session's books.
 *
 * New holds go to the first block with room, so that the last ones, which are the largest, empty
 * first and can be given back.
 */
#include "hold_table.hpp"

#include "lock_map.hpp"

namespace pglock::hold_table
{
block blocks[registry::max_chunks];
int block_count = 0;

namespace
{
lock_map<hold> index;
hold *found_last = nullptr; /* what is taken is often given back next */

/* Blocks that are private, and when to try again to publish them. */
int private_blocks = 0;
TimestampTz next_attempt_at = 0;
constexpr int seconds_between_attempts = 5;

TimestampTz
next_attempt()
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 1000 * seconds_between_attempts);
}

/* Publishes a private block, if there is memory for its chunk now. Never raises. */
bool
publish(int number)
{
	block &of = blocks[number];
	registry::record *records = registry::add_chunk(number);

	if (records == nullptr)
		return false;
	for (uint32 i = 0; i < registry::chunk_size(number); i++)
	{
		of.holds[i].published = &records[i];
		if (of.holds[i].in_use)
			registry::publish_copy(records[i], of.records[i]);
	}
	pfree(of.records);
	of.records = records;
	of.is_private = false;
	private_blocks--;
	return true;
}

/* Tries to publish what is private; seldom, since the server's log is told of every failure. */
void
publish_private_blocks()
{
	if (private_blocks == 0 || GetCurrentTimestamp() < next_attempt_at)
		return;
	next_attempt_at = next_attempt();
	for (int i = 0; i < block_count; i++)
		if (blocks[i].is_private && !publish(i))
			return;
}

/* Makes the next block. Raises 53200. */
void
add_block()
{
	if (block_count == registry::max_chunks)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("the session holds too many locks")));

	block &added = blocks[block_count];
	uint32 size = registry::chunk_size(block_count);
	constexpr int flags = MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO;
	auto holds =
		static_cast<hold *>(MemoryContextAllocExtended(memory(), sizeof(hold) * size, flags));

	added = {};
	added.records = registry::add_chunk(block_count);
	if (added.records == nullptr)
	{
		added.records = static_cast<registry::record *>(
			MemoryContextAllocExtended(memory(), sizeof(registry::record) * size,
									   flags | MCXT_ALLOC_NO_OOM));
		if (added.records == nullptr)
		{
			pfree(holds);
			ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
		}
		for (uint32 i = 0; i < size; i++)
			added.records[i].version = 1;
		added.is_private = true;
		private_blocks++;
		next_attempt_at = next_attempt();
	}
	for (uint32 i = size; i-- > 0;)
	{
		holds[i].published = &added.records[i];
		holds[i].block = static_cast<uint8>(block_count);
		holds[i].next_free = added.free;
		added.free = &holds[i];
	}
	added.holds = holds;
	block_count++;
}

void
drop_last_block()
{
	block &dropped = blocks[--block_count];

	pfree(dropped.holds);
	if (dropped.is_private)
	{
		private_blocks--;
		pfree(dropped.records);
	}
	else
		registry::drop_chunk(block_count);
	dropped = {};
}

block &
block_with_room()
{
	for (int i = 0; i < block_count; i++)
		if (blocks[i].free != nullptr)
			return blocks[i];
	add_block();
	return blocks[block_count - 1];
}
} // namespace

hold *
find(const lockable &what)
{
	if (found_last == nullptr || found_last->what != what)
		found_last = index.find(what);
	return found_last;
}

hold &
add(const lock_key &key)
{
	index.reserve(memory());
	publish_private_blocks();

	block &with_room = block_with_room();
	hold &added = *with_room.free;
	registry::record *published = added.published;
	hold *next_free = added.next_free;

	added = {};
	added.what = key;
	added.published = published;
	added.in_use = true;
	added.block = static_cast<uint8>(&with_room - blocks);
	with_room.free = next_free;
	with_room.in_use++;
	index.add(key, &added);
	registry::publish(*published, key);
	found_last = &added;
	return added;
}

void
remove(hold &h)
{
	block &of = blocks[h.block];

	registry::take_back(*h.published);
	h.levels.clear();
	index.remove(h.what);
	if (found_last == &h)
		found_last = nullptr;
	h.in_use = false;
	h.next_free = of.free;
	of.free = &h;
	of.in_use--;
}

uint32
size()
{
	return index.size();
}

void
trim()
{
	/* a session that never took a lock has no memory */
	if (block_count == 0)
		return;
	/* one small block may stay; a large one only while more than half of what is before it is used
	 */
	while (block_count > 2 && blocks[block_count - 1].in_use == 0 &&
		   2 * blocks[block_count - 2].in_use <= registry::chunk_size(block_count - 2))
		drop_last_block();
	index.shrink(memory());
}

MemoryContext
memory()
{
	static MemoryContext context = nullptr;

	if (context == nullptr)
		context = AllocSetContextCreate(TopMemoryContext, "pglock", ALLOCSET_DEFAULT_SIZES);
	return context;
}
} // namespace pglock::hold_table
