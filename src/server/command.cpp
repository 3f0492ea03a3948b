/*
 * command.cpp: the client's command: which one runs, and whether it has failed.
 *
 * PostgreSQL has no name for it. A message of the client is known by its time as long as it is
 * dealt with, since the next may come within one tick of the clock. A portal is known by its
 * address until it is dropped.
 */
#include "command.hpp"

#include "message_end.hpp"

namespace pglock::command
{
namespace
{
/* Has the portal been run to its end. */
bool
is_complete(const PortalData &portal)
{
	/* atEnd means something only where rows are fetched */
	return portal.strategy == PORTAL_MULTI_QUERY ? portal.status == PORTAL_DONE : portal.atEnd;
}

/* A statement of the client. */
struct statement
{
	id command;
	const PortalData *portal; /* nullptr: it has been dropped */
	bool is_extended;
	bool has_taken;
	bool has_failed;

	/* Was the portal ended before its own end, by an error of its own or with its transaction. */
	bool
	was_cut_short() const
	{
		return portal != nullptr && portal->status == PORTAL_FAILED && !is_complete(*portal);
	}
};

id newest = 0;
id first_of_transaction = 1;
bool any_has_taken = false; /* of those that may still fail */
bool is_over = false;		/* has the transaction ended that they were in */

/* The statement that began last, and in which message, if that is not over. */
statement last;
TimestampTz message = 0;

/* Has the last statement begun where only a rollback is allowed. */
bool is_in_failed_block = false;

/* Those of this transaction that were fetched in part, and have taken something. */
statement *suspended = nullptr;
int suspended_count = 0;
int suspended_room = 0;

/* What the commit that a message brought about runs, if that is not over. */
struct
{
	TimestampTz message;
	id command;
	bool has_failed;
} commit;

message_end end_of_message([] { message = commit.message = 0; });

/* Called when a portal is dropped. */
void
forget(void *portal)
{
	if (last.portal == portal)
		last.portal = nullptr;
	for (int i = 0; i < suspended_count; i++)
		if (suspended[i].portal == portal)
			suspended[i].portal = nullptr;
}

/* Makes it the portal of the last statement. May raise 53200. */
void
set_portal(Portal portal)
{
	auto callback = static_cast<MemoryContextCallback *>(
		MemoryContextAlloc(portal->portalContext, sizeof(MemoryContextCallback)));

	callback->func = forget;
	callback->arg = portal;
	MemoryContextRegisterResetCallback(portal->portalContext, callback);
	last.portal = portal;
}

/* Remembers the last statement if it may go on after another one. */
void
suspend_last()
{
	const PortalData *portal = last.portal;

	if (!last.is_extended || !last.has_taken || portal == nullptr || is_complete(*portal) ||
		portal->status == PORTAL_FAILED)
		return;
	if (suspended_count == suspended_room)
	{
		int room = Max(8, 2 * suspended_room);
		Size bytes = sizeof(statement) * static_cast<Size>(room);

		suspended = static_cast<statement *>(suspended == nullptr
												 ? MemoryContextAlloc(TopMemoryContext, bytes)
												 : repalloc(suspended, bytes));
		suspended_room = room;
	}
	suspended[suspended_count++] = last;
}

/* Makes the statement of a portal that was fetched in part the last one. False: it is not known. */
bool
resume(const PortalData *portal)
{
	if (last.portal == portal)
		return true;
	for (int i = 0; i < suspended_count; i++)
		if (suspended[i].portal == portal)
		{
			statement resumed = suspended[i];

			suspended[i] = suspended[--suspended_count];
			suspend_last();
			last = resumed;
			return true;
		}
	return false;
}

/* Does the last statement run, rather than the commit after it. */
bool
is_running()
{
	/* what it runs may have portals of its own */
	return ActivePortal != nullptr && last.portal != nullptr &&
		   last.portal->status == PORTAL_ACTIVE;
}
} // namespace

void
begin()
{
	TimestampTz now = GetCurrentStatementStartTimestamp();
	Portal portal = ActivePortal;

	if (portal == nullptr)
		return;
	if (now == message)
	{
		/* the first is the client's own, whatever that runs; a string has a portal for each */
		if (last.portal == nullptr && !last.is_extended)
			set_portal(portal);
		return;
	}
	any_has_taken = any_has_taken && !is_over;
	is_over = false;
	if (!portal->visible || portal->atStart || !resume(portal))
	{
		suspend_last();
		last = {};
		last.command = ++newest;
		last.is_extended = portal->visible;
		set_portal(portal);
	}
	message = now;
	end_of_message.await();
	is_in_failed_block = IsAbortedTransactionBlockState();
}

void
expect_taking()
{
	if (newest == 0)
		begin();
}

id
current()
{
	TimestampTz now = GetCurrentStatementStartTimestamp();

	any_has_taken = true;
	if (now == message && is_running())
	{
		last.has_taken = true;
		return last.command;
	}
	if (commit.message != now)
		commit = {now, ++newest, false};
	end_of_message.await();
	return commit.command;
}

bool
may_go_on(id command)
{
	/* a procedure may go on after the transactions that it ends */
	return command >= first_of_transaction || command == last.command;
}

bool
has_failed()
{
	/*
	 * A failed command has been left: no portal runs, nothing wants to add to its messages, and its
	 * transaction is not (yet) marked as to be rolled back. Interrupts are held off not only by the
	 * rollback, but by who leaves the command: that tells it from code that catches an error while
	 * a transaction is committed.
	 */
	return ActivePortal == nullptr && error_context_stack == nullptr && InterruptHoldoffCount > 1 &&
		   TransactionBlockStatusCode() != 'E';
}

bool
is_leaving_failed_block()
{
	return is_in_failed_block && !shmem_exit_inprogress;
}

bool
find_failed()
{
	TimestampTz now = GetCurrentStatementStartTimestamp();

	if (!any_has_taken)
		return false;

	/* a string is complete when its message is, which may have to commit yet */
	last.has_failed = last.is_extended ? last.was_cut_short() : message != 0;
	for (int i = 0; i < suspended_count; i++)
		suspended[i].has_failed = suspended[i].was_cut_short();
	commit.has_failed = now == commit.message;
	return true;
}

bool
is_failed(id command)
{
	if (command == last.command)
		return last.has_failed;
	for (int i = 0; i < suspended_count; i++)
		if (command == suspended[i].command)
			return suspended[i].has_failed;
	return command == commit.command && commit.has_failed;
}

void
end_transaction()
{
	if (ActivePortal != nullptr)
		return; /* a procedure's */
	first_of_transaction = newest + 1;
	suspended_count = 0;
	/* a string may have more statements */
	is_over = true;
}
} // namespace pglock::command
