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
namespace
{
/*
 * At transaction scope, calls function() for the transaction or subtransaction that runs. A cursor
 * would give its locks back when it fails, be it in a later subtransaction than took them.
 */
template <typename Function>
auto
on_behalf_of(scope as, Function function)
{
	ResourceOwner caller = CurrentResourceOwner;

	/* an error passes to where the owner is set anew */
	if (as == scope::transaction)
		CurrentResourceOwner = CurTransactionResourceOwner;

	auto result = function();

	CurrentResourceOwner = caller;
	return result;
}

LockAcquireResult
acquire(const heavyweight_lock &wanted, scope as, bool no_wait, LOCALLOCK **entry,
		bool raise_if_full)
{
	return on_behalf_of(as, [&] {
		return compat::lock_acquire(wanted.tag, wanted.lockmode, as == scope::session, no_wait,
									entry, raise_if_full);
	});
}
} // namespace

LOCALLOCK *
take(const heavyweight_lock &wanted, scope as, bool raise_if_full)
{
	LOCALLOCK *entry = nullptr;
	/*
	 * Before 17 the lock manager refuses a request that may not wait if anybody waits. A session
	 * that holds the lock exclusively has nobody to wait for, whoever waits for it: for this one
	 * request it may, and does not.
	 */
	bool no_wait =
		wanted.lockmode != ShareLock || !holds(heavyweight_lock{wanted.tag, ExclusiveLock});

	if (acquire(wanted, as, no_wait, &entry, raise_if_full) == LOCKACQUIRE_NOT_AVAIL)
		return nullptr;
	return entry;
}

void
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
wait(const heavyweight_lock &wanted, scope as, TimestampTz deadline)
{
	MemoryContext context = CurrentMemoryContext;
	LOCALLOCK *entry = nullptr;
	volatile bool is_late = false;

	/* nothing needs to be kept for what was read of the catalogs */
	InvalidateCatalogSnapshotConditionally();
	PG_TRY();
	{
		deadline::arm(deadline);
		/* for the session at first, whatever the scope: then it is given back in one way only */
		acquire(wanted, scope::session, false, &entry, true);
		deadline::disarm();
		/* an error that was on its way when the lock came must find us here, not in the caller */
		CHECK_FOR_INTERRUPTS();
		check_client_is_there();
		if (as == scope::transaction)
		{
			acquire(wanted, scope::transaction, true, &entry, true);
			give_back(wanted, scope::session);
		}
	}
	PG_CATCH();
	{
		is_late = deadline::disarm() && geterrcode() == ERRCODE_QUERY_CANCELED;
		/* leaves the queue, or takes the grant that has come meanwhile */
		LockErrorCleanup();
		if (holds(wanted))
			give_back(wanted, scope::session);
		if (!is_late)
			PG_RE_THROW();
		/*
		 * Our own deadline has ended the wait. That error can be dropped without a subtransaction
		 * that cleans up after it: it was raised where the lock manager sleeps, with nothing held
		 * but the place in the queue.
		 */
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();

	if (is_late)
	{
		/* who asked for a cancel just behind our deadline is heard now */
		CHECK_FOR_INTERRUPTS();
		return nullptr;
	}
	return entry;
}

void
give_back(const heavyweight_lock &held, scope as)
{
	on_behalf_of(as, [&] { return LockRelease(&held.tag, held.lockmode, as == scope::session); });
}

bool
holds(const heavyweight_lock &asked)
{
	return compat::lock_held_by_me(asked.tag, asked.lockmode);
}

int
parties(const LOCKTAG &tag)
{
	/* despite its name it counts holders, too */
	return LockWaiterCount(&tag);
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
