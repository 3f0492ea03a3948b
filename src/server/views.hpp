/*
 * views.hpp: what is shown of the locks.
 */
#pragma once

#include "key.hpp"

namespace pglock
{
/* The answer of holders(key): a set of pids. 0 stands for a prepared transaction. */
Datum return_holders(FunctionCallInfo fcinfo, const lock_key &key);

/*
 * The rows of lock_status(): all locks of the database, for the view "locks". In version 1.0 that
 * view took what it shows of sessions from pg_stat_activity itself.
 */
Datum return_lock_status(FunctionCallInfo fcinfo, bool with_sessions);

/* The rows of contention_status(): statistics of waits, for the view "contention". */
Datum return_contention(FunctionCallInfo fcinfo);

/* The rows of contention_histogram(): how long the waits took, for the view of that name. */
Datum return_contention_histogram(FunctionCallInfo fcinfo);

/* The row of contention_info(): how full those statistics are. */
Datum return_contention_info(FunctionCallInfo fcinfo);

/* The rows of session_holds(): this session's books. */
Datum return_session_holds(FunctionCallInfo fcinfo);
} // namespace pglock
