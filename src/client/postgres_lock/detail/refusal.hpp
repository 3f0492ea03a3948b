// refusal.hpp: what is thrown where a lock can't be asked for, or is not to be had.
#pragma once

#include <string>
#include <system_error>

#include "../error.hpp"
#include "../key.hpp"
#include "session.hpp"

namespace pglock::detail
{
[[noreturn]] inline void
throw_would_deadlock(const key &key)
{
	throw std::system_error(std::make_error_code(std::errc::resource_deadlock_would_occur),
							"lock \"" + key.text() + "\" is held on this connection");
}

[[noreturn]] inline void
throw_held_by_this(const key &key)
{
	throw acquire_error("lock \"" + key.text() + "\" is held by this object");
}

[[noreturn]] inline void
throw_busy(const key &key)
{
	throw error("the connection for \"" + key.text() + "\" is busy with another command");
}

/// Throws if nothing may be sent over the session's connection.
inline void
check_session(const session &session, const key &key)
{
	if (!session.is_ours())
		throw connection_lost("the connection for \"" + key.text() +
							  "\" belongs to the process that this one was forked from");
	if (!session.alive)
		throw connection_lost("the connection for \"" + key.text() + "\" is closed");
}
} // namespace pglock::detail
