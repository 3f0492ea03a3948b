/*
 * lease_clock.hpp: the time that leases are counted by.
 *
 * A clock that nobody sets, and that goes on while the machine is suspended. It begins anew with
 * the machine, and each machine has its own. So a time of it means something only within one run of
 * the server, which is from when it could be written to until it stops, crashes or is restarted.
 */
#pragma once

#include "pg.hpp"

namespace pglock::lease_clock
{
/* In microseconds. */
int64 now();

struct run
{
	int64 id;	 /* another for each run, on whatever server */
	int64 began; /* by now() of this server; never earlier than it did */
};

/* The run that this session is in. Not to be called on a standby. */
run current_run();

/* From when on new leases may be given out: after a promotion that may be a while. */
int64 opens_at();
} // namespace pglock::lease_clock
