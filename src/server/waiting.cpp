/*
 * waiting.cpp: what is said of waiting for a lock, a slot or a lease, and what is done before it.
 */
#include "waiting.hpp"

#include "context.hpp"
#include "module.hpp"
#include "possessions.hpp"

namespace pglock
{
naming_context::naming_context(const char *doing, const lock_key &key) : doing(doing), key(key)
{
	callback.callback = add;
	callback.arg = this;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
}

void
naming_context::add(void *self)
{
	auto named = static_cast<const naming_context *>(self);

	errcontext("while %s %s", named->doing, describe(named->key));
}

namespace waiting
{
/* what is waited for: any of the slots, but the lock or the lease */
static const char *
in_words(const char *noun, const lock_key &key)
{
	return psprintf("%s %s", strcmp(noun, "slot") == 0 ? "a slot of" : noun, describe(key));
}

void
warn_of_old_snapshot(const char *noun, const lock_key &key)
{
	if (!settings::warnings || !context::has_fixed_snapshot())
		return;
	ereport(WARNING,
			(errmsg("the transaction will not see what the holder of %s writes",
					in_words(noun, key)),
			 errdetail("Its isolation level is above READ COMMITTED, and it has taken its snapshot "
					   "before the wait."),
			 errhint("Acquire the %s before the transaction, %sor use READ COMMITTED.", noun,
					 strcmp(noun, "lease") != 0 ? "at session scope, " : "")));
}

static void
warn_of_waiting_with_snapshot(const char *noun, const lock_key &key)
{
	if (!settings::warnings)
		return;
	ereport(
		WARNING,
		(errmsg("waiting for %s with a snapshot", in_words(noun, key)),
		 errdetail("CALL pglock.%s() waits without one only as a statement of its own, "
				   "outside a transaction block, first in its pipeline, with no other cursor or "
				   "portal open, and without volatile functions in its arguments.",
				   noun),
		 errhint("Until the %s is acquired, VACUUM and CREATE INDEX CONCURRENTLY have to "
				 "wait for this session.",
				 noun)));
}

void
drop_snapshot_or_warn(const char *noun, const lock_key &key, FunctionCallInfo call)
{
	/* whatever it was that took locks for the transaction, they are not to end here */
	if (!possessions::has_any_of_transaction() && context::may_end_transaction(call))
		context::drop_snapshot();
	else
	{
		warn_of_waiting_with_snapshot(noun, key);
		warn_of_old_snapshot(noun, key);
	}
}
} // namespace waiting
} // namespace pglock
