/*
 * command.cpp: the client's command: which one runs, and whether it has failed.
 *
 * Its id is the time at which its portal was made. The portals of one string have one time, that of
 * its message; in the extended protocol each portal has that of its own Bind. What a commit runs
 * has no portal: its id is that of the message, negative.
 */
#include "command.hpp"

#include <cstdlib>

namespace pglock::command
{
namespace
{
/* The client's own statement that began last. */
struct
{
	TimestampTz message; /* the time of the message it began in */
	id command;
	bool is_extended;
	char portal_name[NAMEDATALEN]; /* in the extended protocol */
} last;

/* Was the client told that it is complete; never so before the commit that a string ends with. */
bool
is_complete()
{
	if (!last.is_extended)
		return false;

	Portal portal = GetPortalByName(last.portal_name);

	/* a portal is dropped after it has run, never while it does */
	return portal == nullptr || portal->creation_time != last.command || portal->atEnd ||
		   portal->status == PORTAL_DONE;
}
} // namespace

void
begin()
{
	TimestampTz message = GetCurrentStatementStartTimestamp();

	/* within one message the first is the client's own, whatever that runs */
	if (message == last.message || ActivePortal == nullptr)
		return;
	last.message = message;
	last.command = ActivePortal->creation_time;
	last.is_extended = ActivePortal->visible;
	if (last.is_extended)
		strlcpy(last.portal_name, ActivePortal->name, sizeof(last.portal_name));
}

id
current()
{
	TimestampTz message = GetCurrentStatementStartTimestamp();

	return message == last.message && ActivePortal != nullptr ? last.command : -message;
}

bool
may_go_on(id command)
{
	/* a portal ends with its transaction, unless it is that of a procedure which ends transactions
	 */
	return command == last.command || std::abs(command) >= GetCurrentTransactionStartTimestamp();
}

bool
has_failed()
{
	/*
	 * A failed command has been left: no portal runs, nothing wants to add to its messages, and its
	 * transaction is not (yet) marked as to be rolled back.
	 */
	return ActivePortal == nullptr && error_context_stack == nullptr &&
		   TransactionBlockStatusCode() != 'E';
}

failure
failed()
{
	TimestampTz message = GetCurrentStatementStartTimestamp();

	return {message == last.message && !is_complete() ? last.command : 0, -message};
}
} // namespace pglock::command
