/*
 * deadline.hpp: ending a wait at a point in time.
 */
#pragma once

#include "pg.hpp"

namespace pglock::deadline
{
constexpr TimestampTz never = PG_INT64_MAX;
constexpr TimestampTz at_once = PG_INT64_MIN; /* not to be armed: there is nothing to wait for */

/*
 * From now on and until disarm(), a wait that is still going on at `when` is cancelled: it raises
 * 57014 as if the user had cancelled it. One deadline at a time; `never` arms nothing.
 */
void arm(TimestampTz when);

/*
 * Ends what arm() began. True: the deadline passed, and a 57014 that was raised may be dropped:
 * nobody else has asked for a cancel since arm(), or who did is still to be heard, by the next
 * CHECK_FOR_INTERRUPTS(). Harmless if not armed: false. Never raises.
 */
bool disarm();
} // namespace pglock::deadline
