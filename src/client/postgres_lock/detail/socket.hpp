// socket.hpp: has the other side of a connection gone?
#pragma once

#if __has_include(<poll.h>)
#include <poll.h>
#endif

namespace pglock::detail
{
/// Looks without waiting and without reading. What the kernel has not heard of, as when a machine
/// loses its power, is not seen; nor is anything where there is no poll().
[[nodiscard]] inline bool
is_socket_closed([[maybe_unused]] int socket) noexcept
{
#if defined(POLLRDHUP)
	pollfd asked{socket, POLLIN | POLLRDHUP, 0};

	return socket >= 0 && poll(&asked, 1, 0) > 0 &&
		   (asked.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0;
#elif defined(POLLHUP)
	pollfd asked{socket, POLLIN, 0};

	return socket >= 0 && poll(&asked, 1, 0) > 0 &&
		   (asked.revents & (POLLHUP | POLLERR | POLLNVAL)) != 0;
#else
	return false;
#endif
}
} // namespace pglock::detail
