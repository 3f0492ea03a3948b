// socket.hpp: what can be seen of a socket without waiting and without reading.
#pragma once

#if __has_include(<poll.h>)
#include <poll.h>
#endif

namespace pglock::detail
{
/// Has the other side of a connection gone? What the kernel has not heard of, as when a machine
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

#if __has_include(<poll.h>)
/// Can it be read from, or written to?
[[nodiscard]] inline bool
is_socket_ready(int socket, bool to_write) noexcept
{
	pollfd asked{socket, static_cast<short>(to_write ? POLLOUT : POLLIN), 0};

	return socket < 0 || poll(&asked, 1, 0) > 0;
}
#endif
} // namespace pglock::detail
