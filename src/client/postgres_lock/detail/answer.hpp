// answer.hpp: waits for the answers of a PGconn, and no longer than until a time.
#pragma once

#include <algorithm>
#include <chrono>
#include <limits>
#include <memory>

#include <libpq-fe.h>
#include <poll.h>
#include <sys/socket.h>

#include "../connection.hpp"
#include "../error.hpp"

namespace pglock::detail
{
struct result_deleter
{
	void
	operator()(PGresult *result) const noexcept
	{
		PQclear(result);
	}
};

using result_ptr = std::unique_ptr<PGresult, result_deleter>;

/// Closes a connection whose state is not known, so that the server ends the session. libpq is made
/// to see that it is closed; the PGconn is still its owner's.
inline void
shut_down(PGconn &connection) noexcept
{
	::shutdown(PQsocket(&connection), SHUT_RDWR);
	while (PQstatus(&connection) == CONNECTION_OK && PQconsumeInput(&connection) == 1)
	{
	}
}

/// Makes a connection non-blocking as long as it lives.
class nonblocking
{
  public:
	explicit nonblocking(PGconn &connection) noexcept
		: connection_(connection), was_nonblocking_(PQisnonblocking(&connection))
	{
		PQsetnonblocking(&connection_, 1);
	}

	nonblocking(const nonblocking &) = delete;
	nonblocking &operator=(const nonblocking &) = delete;

	~nonblocking()
	{
		PQsetnonblocking(&connection_, was_nonblocking_);
	}

  private:
	PGconn &connection_;
	int was_nonblocking_;
};

/// For poll(): -1 is for ever.
[[nodiscard]] inline int
milliseconds_until(const deadline &until) noexcept
{
	using std::chrono::milliseconds;

	if (!until)
		return -1;

	auto left = std::chrono::ceil<milliseconds>(*until - std::chrono::steady_clock::now());

	return static_cast<int>(
		std::clamp(left, milliseconds::zero(), milliseconds(std::numeric_limits<int>::max()))
			.count());
}

/// Sends and receives on a non-blocking connection, until PQgetResult() needs not wait: there is an
/// answer, or it can tell what is wrong. Neither side can be kept waiting by the other's full
/// buffers. False: the time has passed, and nothing has come.
[[nodiscard]] inline bool
wait_for_answer(PGconn &connection, const deadline &until) noexcept
{
	while (PQisBusy(&connection) != 0)
	{
		int unsent = PQflush(&connection);
		pollfd asked{PQsocket(&connection), POLLIN, 0};
		int limit = milliseconds_until(until);

		if (unsent < 0)
			return true;
		if (unsent > 0)
			asked.events |= POLLOUT;

		int ready = poll(&asked, 1, limit);

		if (ready == 0 && limit == 0)
			return false;
		if (ready > 0 && (asked.revents & ~POLLOUT) != 0 && PQconsumeInput(&connection) == 0)
			return true;
	}
	return true;
}

/// As PQexec() and its kind: the last result of what `send` sends. If the time passes, closes the
/// connection and throws.
template <typename Send>
[[nodiscard]] result_ptr
converse(PGconn &connection, const deadline &until, Send send)
{
	nonblocking mode(connection);
	result_ptr last;

	if (send() == 0)
		return last;
	for (;;)
	{
		if (!wait_for_answer(connection, until))
		{
			shut_down(connection);
			throw connection_lost(no_answer_text);
		}

		result_ptr next(PQgetResult(&connection));

		if (!next)
			return last;
		last = std::move(next);
		switch (PQresultStatus(last.get()))
		{
			case PGRES_COPY_IN:
			case PGRES_COPY_OUT:
			case PGRES_COPY_BOTH:
				return last;
			default:
				break;
		}
	}
}
} // namespace pglock::detail
