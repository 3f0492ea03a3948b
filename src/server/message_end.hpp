/*
 * message_end.hpp: to be told when a message of the client has been dealt with.
 *
 * PostgreSQL has no hook for that, but empties a memory context before it waits for the next one.
 */
#pragma once

#include "pg.hpp"

namespace pglock
{
/* Lives for ever. */
class message_end
{
  public:
	/* `then` is called at the end of a message for which this is awaited. It must not raise. */
	explicit constexpr message_end(void (*then)()) : then(then)
	{
	}

	/* Never raises. */
	void
	await()
	{
		if (is_awaited)
			return;
		is_awaited = true;
		if (MessageContext == nullptr)
			return; /* a background worker has no client, and no end of its messages */
		callback.func = [](void *self) { static_cast<message_end *>(self)->reach(); };
		callback.arg = this;
		MemoryContextRegisterResetCallback(MessageContext, &callback);
	}

  private:
	void
	reach()
	{
		is_awaited = false;
		then();
	}

	void (*then)();
	MemoryContextCallback callback = {};
	bool is_awaited = false;
};
} // namespace pglock
