/*
 * confirmation.hpp: whether this server still is the primary that its synchronous standbys follow.
 */
#pragma once

#include "module.hpp"
#include "pg.hpp"

namespace pglock::confirmation
{
/* The values of pglock.synchronous_acquire. */
enum setting : int {
	off,
	on,	   /* as a commit waits: not where there are no synchronous standbys */
	strict /* refuses where there are none */
};

/* Costs next to nothing, as most never want it. */
inline bool
is_wanted()
{
	return settings::synchronous_acquire != off;
}

/*
 * Waits until synchronous standbys have confirmed what was logged after this was called: then none
 * of them had been promoted when it was called. `what` was taken before. Raises 55P03 if `deadline`
 * or lock_timeout passes before, 57014 if a cancel strikes, 55000 if there must be such standbys
 * and are none. A deadline that is not to wait for a lock does not limit this.
 */
void await(const char *what, TimestampTz deadline);
} // namespace pglock::confirmation
