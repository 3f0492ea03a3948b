/*
 * writes.hpp: what a transaction has done that others do not see before it commits.
 */
#pragma once

#include "pg.hpp"

namespace pglock::writes
{
enum class unseen { nothing, rows, notifications };

/*
 * What the next holder of a lock that is released now would miss. Rows are those of tables that
 * others can read: no temporary ones, and in a transaction that uses one no system catalogs, which
 * it may have written for that. Not what was rolled back to a savepoint, rows and tables that are
 * only locked, or sequences. May raise.
 */
unseen pending();

/* To be called before a statement runs, whoever's: it may write. */
void note_statement();

/* The transaction sends a notification. */
void note_notification();

/* What the subtransaction and those in it did is rolled back; the transaction has ended. */
void forget(SubTransactionId rolled_back);
void forget();
} // namespace pglock::writes
