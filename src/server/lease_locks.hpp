/*
 * lease_locks.hpp: what excludes whom, and who waits for whom, where leases are concerned.
 *
 * A lease itself is a row. These locks of the lock manager are held at transaction scope, by those
 * who take, release or check one:
 *
 * - The gate of a key is the queue of those who wait for its leases. Who has it is in front: only
 *   that session looks whether there is a lease to be had, and sleeps until there may be.
 * - A slot of a key is locked by whoever takes it (nobody else may do anything), releases it
 *   (nobody may take or release it), or checks that the lease is held (nobody may take it), until
 *   the transaction's end.
 *
 * They have spaces of their own (see lock_tag.hpp), so a lock and a lease of one name don't exclude
 * each other.
 */
#pragma once

#include "lock.hpp"

namespace pglock::lease_locks
{
heavyweight_lock gate(int64 key_id);

/* The gate for those who pass if nobody waits: they are not in the way of each other. */
heavyweight_lock open_gate(int64 key_id);

/* What the slot of a key is locked for. */
enum class use { check, release, take };

heavyweight_lock slot(int64 key_id, int32 number, use what_for);
} // namespace pglock::lease_locks
