/*
 * holds.hpp: this session's books: which locks it took through pglock, and how.
 *
 * The lock manager is the truth; the books only annotate it. They add to it the name of a lock,
 * since when it is held, in which order its levels were taken, and which of them the client's
 * current command took. Where locks went round the books (pg_advisory_unlock, DISCARD ALL, the end
 * of a transaction) they notice when they next look.
 */
#pragma once

#include "key.hpp"
#include "level_stack.hpp"
#include "lock.hpp"

#include <optional>

namespace pglock::holds
{
/* What the books know of one lock. It lives in a hash table, at one address. */
struct hold
{
	int64 lock_id; /* the hash key */
	char *name;	   /* as it is shown; nullptr: taken by its id only */

	struct possession
	{
		LOCALLOCK *entry; /* the lock manager's; nullptr: not held in this mode */
		TimestampTz session_since; /* 0: not held through pglock at that scope */
		TimestampTz transaction_since;
		int64 taken_by_command; /* of the session's levels */
	};
	possession by_mode[2];

	level_stack levels;	 /* of session scope, taken through pglock */
	TimestampTz command; /* the start of the client's command that last took a level */

	possession &
	in(mode m)
	{
		return by_mode[static_cast<int>(m)];
	}
};
static_assert(std::is_trivially_destructible_v<hold>);

/*
 * Takes the lock if it is to be had at once, and books it. Raises 53200 if memory or the lock table
 * is full and 54000 over pglock.max_holds; then, and if the answer is false, nothing was taken.
 */
bool take(const lock_key &key, mode m, scope as);

/* As take(), but waits, as manager::wait() does. */
bool wait(const lock_key &key, mode m, scope as, TimestampTz deadline, manager::when_late late);

/*
 * Takes the level back that take() or wait() booked last in this call, whatever its scope. For a
 * transaction's level the resource owner has to be the one it was taken with.
 */
void undo(const lock_key &key, mode m, scope as);

/*
 * The mode of the newest level this session holds at session scope, in mode `only` if that is
 * given. A level that was not taken through pglock counts as older than those that were.
 */
std::optional<mode> newest(const lock_key &key, std::optional<mode> only);

/* Would giving back one level in that mode end the possession in that mode. */
bool is_last_level(const lock_key &key, mode m);

/* Gives back one level of session scope; the caller knows by newest() that there is one. */
void give_back(const lock_key &key, mode m);

/* How many levels of session scope were taken through pglock: of one lock, or of all. */
int64 levels(const lock_key &key);
int64 levels();

/* Gives those levels back, and says how many they were. */
int64 give_back_all(const lock_key &key);
int64 give_back_all();

/* To be called once: gives back what a command of the client took when that command fails. */
void watch_transactions();

/* One row of the books: a lock in one mode and scope. */
struct row
{
	int64 lock_id;
	const char *name; /* or nullptr */
	pglock::mode mode;
	pglock::scope scope;
	int64 depth;
	TimestampTz since;
};

/* Calls `visit(row, argument)` for every row. */
void for_each_row(void (*visit)(const row &, void *), void *argument);
} // namespace pglock::holds
