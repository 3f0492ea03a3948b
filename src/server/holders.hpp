/*
 * holders.hpp: who holds a lock and who waits for it, in words.
 */
#pragma once

#include "key.hpp"

namespace pglock
{
/*
 * For a message: the other sessions that hold the lock, or a slot of its key, with their names and
 * since when as far as the current user may see them; nullptr if there are none. In the current
 * memory context. May raise.
 */
const char *describe_other_holders(const lock_key &key);

/*
 * For a message: where to look for who holds a lock, and what to mind of those who wait for it.
 */
const char *hint_at_parties(const lock_key &key);
} // namespace pglock
