/*
 * standby.hpp: what is refused on a hot standby.
 *
 * The primary's advisory locks are not known there. A lock that a standby grants does not exclude
 * the sessions of the primary, and "nobody holds it" is true of the standby's own sessions only.
 */
#pragma once

namespace pglock::standby
{
/* Is this a standby whose own locks are not what the user means; they are if the setting says so.
 */
bool is_off_limits();

/* Raises 25006; `what` completes "cannot ... on a standby". */
[[noreturn]] void refuse(const char *what);
} // namespace pglock::standby
