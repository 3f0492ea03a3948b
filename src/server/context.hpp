/*
 * context.hpp: where in the client's work a call stands.
 */
#pragma once

#include "pg.hpp"

namespace pglock::context
{
/* Did the client's own statement make this call, rather than a function or a DO block it runs. */
bool is_top_level();

/* Would a lock of transaction scope that is taken now be gone when the statement ends. */
bool transaction_ends_with_statement();

/* Raises 25000 in a parallel worker: it has not the locks of the session, and loses its own. */
void check_no_parallel_worker();

/* Does the transaction read from a snapshot that it has taken already and will not renew. */
bool has_fixed_snapshot();

/* Has the transaction an id: it has written, or locked rows or tables. */
bool has_transaction_id();

/*
 * Is `call`, of a procedure, the client's whole command and the first of its transaction, so that
 * ending the transaction here ends nothing of the client's.
 */
bool may_end_transaction(FunctionCallInfo call);

/* Ends the transaction and begins another, which has no snapshot. Needs may_end_transaction(). */
void drop_snapshot();
} // namespace pglock::context
