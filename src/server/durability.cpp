/*
 * durability.cpp: what must not be lost by a crash or a promotion, though no commit waits for it.
 */
#include "durability.hpp"

#include "compat.hpp"
#include "deadline.hpp"

namespace pglock::durability
{
namespace
{
/* What this session has seen to be durable. */
XLogRecPtr durable_up_to = InvalidXLogRecPtr;

/* Is nobody to be waited for who has not confirmed the log up to there. */
bool
is_replicated(XLogRecPtr logged_up_to)
{
	return !has_standbys() || is_confirmed(logged_up_to);
}

void
set_for_now(const char *setting, const char *value)
{
	set_config_option(setting, value, PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Waits, unless a cancel ends that. The server then warns that a transaction has committed, and, if
 * the session is to end, tells the client nothing more: neither is true here.
 */
void
wait_for_standbys(XLogRecPtr logged_up_to)
{
	int settings = NewGUCNestLevel();
	CommandDest destination = whereToSendOutput;

	if (synchronous_commit < SYNCHRONOUS_COMMIT_ON)
		set_for_now("synchronous_commit", "on");
	set_for_now("client_min_messages", "error");
	set_for_now("log_min_messages", "error");
	hold_interrupts();
	SyncRepWaitForLSN(logged_up_to, false);
	resume_interrupts();
	whereToSendOutput = destination;
	AtEOXact_GUC(true, settings);
}

/* The same until `deadline` at the latest. True: that has passed, and nothing else ended it. */
bool
wait_for_standbys_until(XLogRecPtr logged_up_to, TimestampTz deadline)
{
	PG_TRY();
	{
		deadline::arm(deadline);
		wait_for_standbys(logged_up_to);
	}
	PG_CATCH();
	{
		deadline::disarm();
		PG_RE_THROW();
	}
	PG_END_TRY();
	return deadline::disarm();
}
} // namespace

bool
has_standbys()
{
	if (max_wal_senders == 0)
		return false;
	LWLockAcquire(SyncRepLock, LW_SHARED);
	bool has = compat::has_synchronous_standbys();
	LWLockRelease(SyncRepLock);
	return has;
}

bool
is_confirmed(XLogRecPtr logged_up_to)
{
	LWLockAcquire(SyncRepLock, LW_SHARED);
	bool is = WalSndCtl->lsn[SYNC_REP_WAIT_FLUSH] >= logged_up_to;
	LWLockRelease(SyncRepLock);
	return is;
}

bool
waits_for_standbys(XLogRecPtr logged_up_to)
{
	return logged_up_to > durable_up_to && !is_replicated(logged_up_to);
}

bool
await_until(XLogRecPtr logged_up_to, const char *what, TimestampTz deadline)
{
	if (logged_up_to <= durable_up_to)
		return true;
	XLogFlush(logged_up_to);
	if (!is_replicated(logged_up_to))
	{
		bool is_late = wait_for_standbys_until(logged_up_to, deadline);

		CHECK_FOR_INTERRUPTS();
		if (!is_replicated(logged_up_to))
		{
			if (is_late)
				return false;
			ereport(ERROR, (errcode(ERRCODE_QUERY_CANCELED),
							errmsg("canceling %s that was not yet replicated", what),
							errdetail("No synchronous standby has confirmed it.")));
		}
	}
	durable_up_to = logged_up_to;
	return true;
}

void
await(XLogRecPtr logged_up_to, const char *what)
{
	await_until(logged_up_to, what, deadline::never);
}
} // namespace pglock::durability
