/*
 * writes.cpp: what a transaction has done that others do not see before it commits.
 *
 * Writes are known by the counts that PostgreSQL keeps for its statistics, which it undoes with a
 * subtransaction. Once it ran something without them (track_counts = off) a transaction that has an
 * id counts as one that has written, although it may only have locked rows.
 */
#include "writes.hpp"

#include "compat.hpp"
#include "context.hpp"

namespace pglock::writes
{
namespace
{
/* The lowest of those subtransactions that have sent notifications and live. */
SubTransactionId first_notifying = InvalidSubTransactionId;

/* Has anything run in the transaction whose writes were not counted. */
bool is_uncounted = false;

bool
is_temporary(Oid table)
{
	HeapTuple found = SearchSysCache1(RELOID, ObjectIdGetDatum(table));

	if (!HeapTupleIsValid(found))
		return false;

	bool temporary =
		reinterpret_cast<Form_pg_class>(GETSTRUCT(found))->relpersistence == RELPERSISTENCE_TEMP;

	ReleaseSysCache(found);
	return temporary;
}

bool
has_written_rows()
{
	bool uses_temporary = (MyXactFlags & XACT_FLAGS_ACCESSEDTEMPNAMESPACE) != 0;
	bool written = false;

	if (!context::has_transaction_id())
		return false;
	if (is_uncounted)
		return true;
	compat::for_each_written_table([&](Oid table) {
		written =
			written || !(uses_temporary && (IsCatalogRelationOid(table) || is_temporary(table)));
	});
	return written;
}
} // namespace

unseen
pending()
{
	if (has_written_rows())
		return unseen::rows;
	return first_notifying != InvalidSubTransactionId ? unseen::notifications : unseen::nothing;
}

void
note_statement()
{
	is_uncounted = is_uncounted || !pgstat_track_counts;
}

void
note_notification()
{
	if (first_notifying == InvalidSubTransactionId)
		first_notifying = GetCurrentSubTransactionId();
}

void
forget(SubTransactionId rolled_back)
{
	/* those in it began after it */
	if (first_notifying >= rolled_back)
		first_notifying = InvalidSubTransactionId;
}

void
forget()
{
	first_notifying = InvalidSubTransactionId;
	is_uncounted = false;
}
} // namespace pglock::writes
