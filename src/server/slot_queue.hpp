/*
 * slot_queue.hpp: waking who sleeps in front of those who wait for a slot of a key.
 *
 * Who waits for one of several slots waits for the place in front first, which is a lock: any_slot
 * of the key. Who has it looks whether a slot is free, and sleeps until it is woken when one may
 * be.
 */
#pragma once

#include "pg.hpp"

namespace pglock::slot_queue
{
/* Has who sleeps in front look again. Never raises. */
void wake(int64 lock_id);

/* From now on this session holds slots, perhaps, and wakes those who wait for them when it ends. */
void wake_at_session_end();
} // namespace pglock::slot_queue
