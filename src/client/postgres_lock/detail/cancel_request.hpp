// cancel_request.hpp: asks the server to cancel a command, without making the thread wait.
#pragma once

#include <libpq-fe.h>
#include <memory>

#include "socket.hpp"
#include "thread.hpp"

#if !defined(LIBPQ_HAS_ASYNC_CANCEL)
#include <array>
#include <new>
#include <thread>
#include <unistd.h>
#include <utility>

#include "file.hpp"
#endif

namespace pglock::detail
{
#if defined(LIBPQ_HAS_ASYNC_CANCEL)
/// One request to cancel the command that a connection is running, over a connection of its own.
/// Its end abandons it.
class cancel_request
{
  public:
	explicit cancel_request(PGconn &connection) : request_(PQcancelCreate(&connection))
	{
		if (PQcancelStart(request_.get()) == 0)
			next_ = PGRES_POLLING_FAILED;
	}

	/// Goes on as far as possible without waiting. True: it has arrived, or has failed.
	[[nodiscard]] bool
	is_over() noexcept
	{
		while (next_ == PGRES_POLLING_READING || next_ == PGRES_POLLING_WRITING)
		{
			// libpq must not be called before
			if (!is_socket_ready(socket(), wants_to_write()))
				return false;
			next_ = PQcancelPoll(request_.get());
		}
		return true;
	}

	/// What to wait for until is_over() may be true. It may be another one each time.
	[[nodiscard]] int
	socket() const noexcept
	{
		return PQcancelSocket(request_.get());
	}

	[[nodiscard]] bool
	wants_to_write() const noexcept
	{
		return next_ == PGRES_POLLING_WRITING;
	}

  private:
	struct finish
	{
		void
		operator()(PGcancelConn *request) const noexcept
		{
			PQcancelFinish(request);
		}
	};

	std::unique_ptr<PGcancelConn, finish> request_;
	PostgresPollingStatusType next_ = PGRES_POLLING_WRITING;
};
#else
/// One request to cancel the command that a connection is running. Before version 17 libpq waits
/// until it has arrived, so a thread sends it, which touches nothing else. The end of this object
/// does not wait for the thread: on a network that has failed, that lasts until the system gives
/// up.
class cancel_request
{
  public:
	explicit cancel_request(PGconn &connection)
	{
		cancel_ptr request(PQgetCancel(&connection));

		if (!request)
			throw std::bad_alloc();

		auto [over, ending] = make_pipe();

		over_ = std::move(over);
		signals_blocked blocked;
		std::thread sender([request = std::move(request), ending = std::move(ending)] {
			std::array<char, 256> message;

			PQcancel(request.get(), message.data(), static_cast<int>(message.size()));
			// that it is closed is not enough: a child process may have it, too
			(void)!::write(ending.get(), "", 1);
		});

		sender.detach();
	}

	/// True: it has arrived, or has failed.
	[[nodiscard]] bool
	is_over() const noexcept
	{
		return is_socket_ready(socket(), false);
	}

	/// What to wait for until is_over() may be true.
	[[nodiscard]] int
	socket() const noexcept
	{
		return over_.get();
	}

	[[nodiscard]] bool
	wants_to_write() const noexcept
	{
		return false;
	}

  private:
	struct free_cancel
	{
		void
		operator()(PGcancel *cancel) const noexcept
		{
			PQfreeCancel(cancel);
		}
	};

	using cancel_ptr = std::unique_ptr<PGcancel, free_cancel>;

	file over_;
};
#endif
} // namespace pglock::detail
