/*
 * lease_clock.hpp: the runs of the server, in which the time means something that leases are
 * counted by.
 *
 * That is steady_clock.hpp's. A run is from when the server could be written to until it stops,
 * crashes or is restarted.
 */
#pragma once

#include "pg.hpp"

namespace pglock::lease_clock
{
struct run
{
	int64 id;	 /* another for each run, on whatever server */
	int64 began; /* by steady_clock::now() of this server; never earlier than it did */
};

/* The run that this session is in. Not to be called on a standby. */
run current_run();

/* From when on new leases may be given out: after a promotion that may be a while. */
int64 opens_at();
} // namespace pglock::lease_clock
