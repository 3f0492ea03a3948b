/*
 * contention.hpp: statistics of the waits for locks, by key, in shared memory.
 *
 * Only sessions that have waited write here, after the wait, under one lightweight lock; who gets a
 * lock at once pays nothing. The table has room for a fixed number of keys: the one whose last wait
 * is longest ago makes room for another, which is counted.
 */
#pragma once

#include "key.hpp"

#include <iterator>
#include <optional>
#include <type_traits>

namespace pglock::contention
{
/*
 * The session waits for the lock from now on, which is returned, until end_wait(). Where the
 * session ends meanwhile, the wait was cancelled. Neither raises.
 */
TimestampTz begin_wait(const lock_key &key);

enum class outcome { granted, timeout, deadlock, cancel, none };

void end_wait(outcome end);

/* How the error that was just caught has ended a wait; `none`: there was no wait. */
outcome outcome_of_error();

/*
 * Waits are also counted by how long they took, in milliseconds: at most 1, 3, 10 and so on, and
 * all that took longer.
 */
constexpr int64 longest_of_bucket[] = {1,	 3,	   10,	  30,	 100,	 300,
									   1000, 3000, 10000, 30000, 100000, 300000};
constexpr size_t buckets = std::size(longest_of_bucket) + 1;

/* What is known of one key; times in microseconds. */
struct statistics
{
	lockable what; /* a key, or any of its slots */
	bool has_name;
	shown_name_buffer name;
	Oid roles[4]; /* whose sessions waited last by that name, the last first */
	int64 waits;
	int64 total_wait_time;
	int64 max_wait_time;
	int64 timeouts;
	int64 deadlocks;
	int64 cancels;
	int64 by_duration[buckets];
	TimestampTz last_wait_at;
	TimestampTz since;
};
static_assert(std::is_trivially_destructible_v<statistics>);

/* Calls `visit(statistics, argument)` for each key of this database. May raise. */
void for_each(void (*visit)(const statistics &, void *), void *argument);

/* How full the table is: of all databases, since it was made. */
struct table_info
{
	int keys;
	int max_keys;
	int64 evictions; /* keys that made room for others */
	TimestampTz last_eviction_at;
};

/* Nothing if there is no table. */
std::optional<table_info> info();

/* Forgets the keys of this database. */
void reset();

/*
 * Setting up: see shared.hpp
 */

Size shared_size(int keys);
void initialize(void *memory, int keys, int tranche);
void attach(void *memory);
} // namespace pglock::contention
