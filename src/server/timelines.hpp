/*
 * timelines.hpp: the timelines that the server's log has gone through.
 *
 * A promotion begins one, and so does a recovery to a point in time. Not to be called on a standby.
 */
#pragma once

#include "pg.hpp"

#include <span>

namespace pglock::timelines
{
struct timeline
{
	XLogRecPtr begin;  /* where in the log */
	TimestampTz since; /* by this server's clock, rounded up to seconds; 0: not known */
};

/*
 * From the oldest one that is known of to the one that is written to. A session reads them from
 * files once for each promotion that it lives through. Valid until it is called again.
 */
std::span<const timeline> history();

/* How many have begun since the log was written up to there. */
int begun_since(XLogRecPtr logged_up_to);
} // namespace pglock::timelines
