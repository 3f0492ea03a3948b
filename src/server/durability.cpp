/*
 * durability.cpp: what must not be lost by a crash or a promotion, though no commit waits for it.
 */
#include "durability.hpp"

#include "compat.hpp"

namespace pglock::durability
{
namespace
{
/* What this session has seen to be durable. */
XLogRecPtr durable_up_to = InvalidXLogRecPtr;

/* Have as many synchronous standbys as are wanted flushed the log up to there. */
bool
is_replicated(XLogRecPtr logged_up_to)
{
	LWLockAcquire(SyncRepLock, LW_SHARED);
	bool replicated =
		!compat::has_synchronous_standbys() || WalSndCtl->lsn[SYNC_REP_WAIT_FLUSH] >= logged_up_to;
	LWLockRelease(SyncRepLock);
	return replicated;
}
} // namespace

bool
waits_for_standbys(XLogRecPtr logged_up_to)
{
	return max_wal_senders > 0 && logged_up_to > durable_up_to && !is_replicated(logged_up_to);
}

void
await(XLogRecPtr logged_up_to, const char *what)
{
	if (logged_up_to <= durable_up_to)
		return;
	XLogFlush(logged_up_to);
	if (max_wal_senders > 0)
	{
		int settings = NewGUCNestLevel();

		if (synchronous_commit < SYNCHRONOUS_COMMIT_ON)
			set_config_option("synchronous_commit", "on", PGC_USERSET, PGC_S_SESSION,
							  GUC_ACTION_SAVE, true, 0, false);
		hold_interrupts();
		SyncRepWaitForLSN(logged_up_to, false);
		resume_interrupts();
		AtEOXact_GUC(true, settings);
		CHECK_FOR_INTERRUPTS();

		/* it returns early, with a warning, when it is cancelled */
		if (!is_replicated(logged_up_to))
			ereport(ERROR, (errcode(ERRCODE_QUERY_CANCELED),
							errmsg("canceling %s that was not yet replicated", what),
							errdetail("No synchronous standby has confirmed it.")));
	}
	durable_up_to = logged_up_to;
}
} // namespace pglock::durability
