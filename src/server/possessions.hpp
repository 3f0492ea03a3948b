/*
 * possessions.hpp: the books of one lock, held against the lock manager, and what is published of
 * it.
 */
#pragma once

#include "hold_table.hpp"

namespace pglock::possessions
{
/* Is the hold in use: held, or waited for right now. */
bool is_wanted(const hold &h);

/* Starts the books of a possession that the lock manager has. */
void begin(hold &h, mode m, LOCALLOCK *entry);

/* Ends the possession of a lock in one mode. */
void end(hold &h, mode m);

/* Publishes a level that the lock manager has just granted. Never raises. */
void add_level(hold &h, mode m, scope as, LOCALLOCK *entry);

/* Forgets the newest levels of session scope, which are given back or have gone. */
void forget_levels(hold &h, mode m, int64 count);

/*
 * Brings the books of a lock in line with the lock manager. It looks into what is published only if
 * something has changed.
 */
void refresh(hold &h, mode m);
void refresh(hold &h);

/* Is there a lock with levels of transaction scope. */
bool has_any_of_transaction();

/* Calls visit(hold) for each lock with levels of transaction scope; it may remove that one. */
void for_each_of_transaction(void (*visit)(hold &));

/* The hold is about to be removed. */
void leave_transaction(hold &h);
} // namespace pglock::possessions
