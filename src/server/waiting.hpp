/*
 * waiting.hpp: what is said of waiting for a lock, a slot or a lease, and what is done before it.
 *
 * A `noun` is "lock", "slot" or "lease", and also the name of the procedure that waits without a
 * snapshot.
 */
#pragma once

#include "key.hpp"

namespace pglock
{
/* Adds what is done, as "acquiring lock", and the name to whatever is raised or logged meanwhile.
 */
class naming_context
{
  public:
	naming_context(const char *doing, const lock_key &key);

	/* to be called by hand: nothing here may need a destructor when an error passes */
	void
	end()
	{
		error_context_stack = callback.previous;
	}

  private:
	static void add(void *self);

	const char *doing;
	const lock_key &key;
	ErrorContextCallback callback;
};
static_assert(std::is_trivially_destructible_v<naming_context>);

namespace waiting
{
/* Warns if the transaction will not see what it waits for others to do. */
void warn_of_old_snapshot(const char *noun, const lock_key &key);

/* Gets ready to wait: without a snapshot if `call`, the call of a procedure, allows it. */
void drop_snapshot_or_warn(const char *noun, const lock_key &key, FunctionCallInfo call);
} // namespace waiting
} // namespace pglock
