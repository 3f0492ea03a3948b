/*
 * lease_commit.cpp: how a transaction that releases leases commits.
 *
 * That nothing else was written is known by where the last release ended in the log: if that is
 * where the log of this transaction ends when it commits. synchronous_commit is then off for the
 * moment of the commit.
 */
#include "lease_commit.hpp"

namespace pglock::lease_commit
{
namespace
{
/* Where the log of a transaction ends that has only released leases. */
XLogRecPtr releases_end = InvalidXLogRecPtr;

int setting = -1; /* synchronous_commit, while it is off; -1: it is as it was set */

void
at_transaction_event(XactEvent event, void *)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			if (releases_end != InvalidXLogRecPtr && releases_end == XactLastRecEnd)
			{
				setting = synchronous_commit;
				synchronous_commit = SYNCHRONOUS_COMMIT_OFF;
			}
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			if (setting != -1)
				synchronous_commit = setting;
			setting = -1;
			releases_end = InvalidXLogRecPtr;
			break;
		default:
			break;
	}
}
} // namespace

release::release()
{
	static bool is_registered = false;

	if (!is_registered)
		RegisterXactCallback(at_transaction_event, nullptr);
	is_registered = true;
	is_first_write = !TransactionIdIsValid(GetTopTransactionIdIfAny()) ||
					 (releases_end != InvalidXLogRecPtr && releases_end == XactLastRecEnd);
}

void
release::end()
{
	releases_end = is_first_write ? XactLastRecEnd : InvalidXLogRecPtr;
}
} // namespace pglock::lease_commit
