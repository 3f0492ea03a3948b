// A shared object that uses locks and hides its symbols, for plugin_host.
#include <optional>
#include <system_error>

#include <postgres_lock/libpq.hpp>

namespace
{
std::optional<pglock::guard> held;
}

/// False: an object holds the lock on this connection.
extern "C" [[gnu::visibility("default")]] bool
take(PGconn *connection)
{
	try
	{
		held.emplace(connection, "a");
		return true;
	}
	catch (const std::system_error &)
	{
		return false;
	}
}

extern "C" [[gnu::visibility("default")]] void
drop()
{
	held.reset();
}
