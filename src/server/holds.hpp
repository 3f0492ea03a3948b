/*
 * holds.hpp: this session's books: which locks it took through pglock, and how.
 *
 * The lock manager is the truth; the books only annotate it. They add to it the name of a lock,
 * since when it is held, in which order its levels were taken, and by which of the client's
 * commands. Where locks went round the books (pg_advisory_unlock, DISCARD ALL, the end of a
 * transaction) they notice when they next look: at a lock that is asked for, or at all when
 * watch.cpp has them look.
 */
#pragma once

#include "key.hpp"
#include "lock.hpp"
#include "registry.hpp"

#include <optional>

namespace pglock::holds
{
/* Raises 54000 if this lock, or a slot of this key, would be one more than pglock.max_holds. */
void check_limit(const lock_key &key);

/*
 * Takes the lock if it is to be had at once, and books it. Raises 53200 if memory or the lock table
 * is full and 54000 over pglock.max_holds; then, and if the answer is false, nothing was taken.
 */
bool take(const lock_key &key, mode m, scope as);

/* As take(), but waits, as manager::wait() does. */
bool wait(const lock_key &key, mode m, scope as, TimestampTz deadline);

/*
 * Publishes that the session waits for any of the slots of a key, while a function that takes one
 * does so. The answer and what is raised are that function's.
 */
struct waiting_function
{
	bool (*call)(void *argument);
	void *argument;
};
bool wait_in_front(const lock_key &any, mode m, scope as, const waiting_function &wait);

/*
 * Takes back the level that take() or wait() booked last of that lock, if the lock is still held.
 * For a level of transaction scope the resource owner has to be the one it was taken with.
 */
void undo(const lock_key &key, mode m, scope as);

/* A level that this session holds at session scope. */
struct level
{
	lock of;
	bool is_last; /* with it, possession in that mode ends */
};

/*
 * The newest level this session holds at session scope, in mode `only` if that is given. A level
 * that was not taken through pglock counts as older than those that were.
 */
std::optional<level> newest(const lockable &what, std::optional<mode> only);

/* Gives back a level that newest() has just found. */
void give_back(const level &newest);

/* Has this session ever taken a lock through pglock. */
bool has_taken_any();

/* How many levels of session scope of that lock were taken through pglock; are there any of any. */
int64 levels(const lockable &what);
bool has_levels();

/* Gives those levels back, and says how many they were. */
int64 give_back_all(const lockable &what);
int64 give_back_all();

/* Gives back the levels of session scope that failed commands have taken; see command.hpp. */
void give_back_failed();

/*
 * Bring the books, and so what is published, in line with the lock manager: all of them, or only
 * what ends with transactions and savepoints. Never raise.
 */
void refresh_all();
void refresh_transaction();

/*
 * Where the token of this session's exclusive possession of a lock is kept, 0 if none was drawn;
 * nullptr if there is no such possession. However the lock was taken. Raises 53200.
 */
int64 *token_of(const lock_key &key);

/* Calls `visit(record, argument)` for what every hold publishes, or would if it could. */
void for_each_record(void (*visit)(const registry::record &, void *), void *argument);

/* One row of the books: a lock in one mode and scope. */
struct row
{
	lockable what;
	const char *name; /* as it is shown; nullptr: taken by its id only */
	pglock::mode mode;
	pglock::scope scope;
	int64 depth;
	TimestampTz since;
};

/* Calls `visit(row, argument)` for every row. */
void for_each_row(void (*visit)(const row &, void *), void *argument);
} // namespace pglock::holds
