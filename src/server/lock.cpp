/*
 * lock.cpp: PostgreSQL's lock manager, as far as advisory locks go.
 *
 * A wait for a lock can end with an error and the lock: the lock may be granted between the moment
 * the error is decided on and the moment the wait is called off. A lock of session scope is not
 * undone by rollback, so whoever waits has to look, and give it back. All waits go through wait(),
 * which does.
 */
#include "lock.hpp"

#include "compat.hpp"
#include "deadline.hpp"

namespace pglock
{
namespace manager
{
LOCALLOCK *
take(const lock &wanted, scope as)
{
	LOCALLOCK *entry = nullptr;
	/*
	 * Before 17 the lock manager refuses a request that may not wait if anybody waits. A session
	 * that holds the lock exclusively has nobody to wait for, whoever waits for it: for this one
	 * request it may, and does not.
	 */
	bool no_wait = wanted.mode == mode::exclusive || !holds({wanted.lock_id, mode::exclusive});

	if (compat::lock_acquire(wanted.tag(), wanted.lockmode(), as == scope::session, no_wait,
							 &entry) == LOCKACQUIRE_NOT_AVAIL)
		return nullptr;
	return entry;
}

/* Ends the session if its client has gone: it would hold the lock for nobody. */
static void
check_client_is_there()
{
	if (MyProcPort == nullptr || whereToSendOutput != DestRemote ||
		compat::is_background_worker() || !WaitEventSetCanReportClosed() || pq_check_connection())
		return;
	ClientConnectionLost = true;
	InterruptPending = true;
	CHECK_FOR_INTERRUPTS();
}

LOCALLOCK *
wait(const lock &wanted, scope as, TimestampTz deadline, when_late late)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	/* only a subtransaction can make an error undone */
	bool in_subtransaction = late == when_late::answer && deadline != deadline::never;
	LOCALLOCK *entry = nullptr;
	volatile bool is_late = false;

	if (in_subtransaction)
	{
		BeginInternalSubTransaction(nullptr);
		MemoryContextSwitchTo(context);
	}

	PG_TRY();
	{
		deadline::arm(deadline);
		/* for the session at first, whatever the scope: then it is given back in one way only */
		compat::lock_acquire(wanted.tag(), wanted.lockmode(), true, false, &entry);
		deadline::disarm();
		/* an error that was on its way when the lock came must find us here, not in the caller */
		CHECK_FOR_INTERRUPTS();
		check_client_is_there();
		if (in_subtransaction)
			ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData *error = nullptr;

		is_late = deadline::disarm() && geterrcode() == ERRCODE_QUERY_CANCELED;
		if (holds(wanted))
			give_back(wanted, scope::session);
		if (!is_late && !in_subtransaction)
			PG_RE_THROW();

		MemoryContextSwitchTo(context);
		if (!is_late)
			error = CopyErrorData();
		FlushErrorState();
		if (in_subtransaction)
			RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (!is_late)
			ReThrowError(error);
	}
	PG_END_TRY();

	if (is_late)
	{
		/* who asked for a cancel just behind our deadline is heard now */
		CHECK_FOR_INTERRUPTS();
		return nullptr;
	}
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (as == scope::transaction)
	{
		compat::lock_acquire(wanted.tag(), wanted.lockmode(), false, true, &entry);
		give_back(wanted, scope::session);
	}
	return entry;
}

void
give_back(const lock &held, scope as)
{
	LOCKTAG tag = held.tag();

	LockRelease(&tag, held.lockmode(), as == scope::session);
}

bool
holds(const lock &asked)
{
	return compat::lock_held_by_me(asked.tag(), asked.lockmode());
}

bool
is_wanted(int64 lock_id)
{
	LOCKTAG tag = lock{lock_id, mode::exclusive}.tag();

	/* despite its name it counts holders, too */
	return LockWaiterCount(&tag) > 0;
}

LOCALLOCK *
find(const lock &asked)
{
	LOCALLOCK *entry = nullptr;

	if (!holds(asked))
		return nullptr;
	/* entries can't be looked up from here, but taking a lock that is held tells its entry */
	compat::lock_acquire(asked.tag(), asked.lockmode(), true, true, &entry);
	give_back(asked, scope::session);
	return entry;
}

} // namespace manager
} // namespace pglock
