/*
 * confirmation.cpp: whether this server still is the primary that its synchronous standbys follow.
 *
 * A server that was primary does not notice that another one was promoted, and would go on giving
 * out locks. A standby that confirms a record of the log was a standby of this server after that
 * record was written, so a lock that was taken before the record was taken from the primary. The
 * record says nothing, and needs no transaction id. Each who waits writes one of his own:
 * PostgreSQL wants each to wait for a place in the log of its own.
 */
#include "confirmation.hpp"

#include "deadline.hpp"
#include "durability.hpp"

namespace pglock::confirmation
{
namespace
{
/* Writes a record that replay ignores, and which is no reason for a checkpoint. */
XLogRecPtr
log_nothing()
{
	static char nothing = 0;

	XLogBeginInsert();
	XLogSetRecordFlags(XLOG_MARK_UNIMPORTANT);
	XLogRegisterData(&nothing, sizeof(nothing));
	return XLogInsert(RM_XLOG_ID, XLOG_NOOP);
}

/* The end of waiting: lock_timeout limits each wait, as it does in the lock manager. */
TimestampTz
end_of_wait(TimestampTz deadline)
{
	TimestampTz end = deadline == deadline::at_once ? deadline::never : deadline;

	if (LockTimeout > 0)
		end = Min(end, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LockTimeout));
	return end;
}

[[noreturn]] void
raise_no_standbys(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("cannot confirm %s", what),
			 errdetail("\"pglock.synchronous_acquire\" is strict, and the server has no "
					   "synchronous standbys."),
			 errhint("Name some in \"synchronous_standby_names\", or set it to on to do "
					 "without where there are none.")));
}
} // namespace

void
await(const char *what, TimestampTz deadline)
{
	bool is_strict = settings::synchronous_acquire == strict;

	/* what is taken on a standby excludes nobody elsewhere anyhow */
	if (RecoveryInProgress())
		return;
	if (!durability::has_standbys())
	{
		if (is_strict)
			raise_no_standbys(what);
		return;
	}

	XLogRecPtr logged_up_to = log_nothing();

	if (!durability::await_until(logged_up_to, what, end_of_wait(deadline)))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE), errmsg("could not confirm %s in time", what),
				 errdetail("No synchronous standby has confirmed that this server still is "
						   "the primary."),
				 errhint("Look in pg_stat_replication whether its standbys are connected, "
						 "and whether another server was promoted.")));
	/* those who waited may have been let go because there are no standbys any more */
	if (is_strict && !durability::is_confirmed(logged_up_to))
		raise_no_standbys(what);
}
} // namespace pglock::confirmation
