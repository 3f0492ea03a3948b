/*
 * lease_queue.hpp: waking who sleeps in front of a key's queue.
 *
 * The gate of the key (see lease_locks.hpp) is the queue. Who has it sleeps until the first lease
 * expires, and is woken when one ends before.
 */
#pragma once

#include "pg.hpp"

namespace pglock::lease_queue
{
/* Has who sleeps in front of the key's queue look again. Never raises. */
void wake(int64 key_id);

/* The same when this transaction has ended, however it does. */
void wake_at_end(int64 key_id);
} // namespace pglock::lease_queue
