// hang_up.hpp: closing a connection that another thread uses.
#pragma once

#include <functional>
#include <memory>
#include <sys/socket.h>

#include "file.hpp"

namespace pglock::detail
{
/// What closes the connection of a socket under its owner. That may close the socket meanwhile, and
/// its number be somebody else's, so this has one of its own. Throws `std::system_error` if there
/// can't be one.
[[nodiscard]] inline std::function<void()>
hang_up_of(int socket)
{
	return
		[own = std::make_shared<file>(duplicate_of(socket))] { ::shutdown(own->get(), SHUT_RDWR); };
}
} // namespace pglock::detail
