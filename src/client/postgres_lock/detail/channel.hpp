// channel.hpp: a PGconn that does not block, as Asio sees it.
#pragma once

#include <cerrno>
#include <fcntl.h>
#include <libpq-fe.h>
#include <system_error>
#include <unistd.h>
#include <utility>

#include <asio.hpp>

#include "../libpq.hpp"
#include "session.hpp"
#include "statements.hpp"

namespace pglock::detail
{
/// One connection as Asio sees it. Its socket is a duplicate, since others may have registered
/// libpq's own.
class channel
{
  public:
	channel(asio::any_io_executor executor, PGconn &connection)
		: connection_(connection), socket_(executor), timer_(std::move(executor))
	{
	}

	[[nodiscard]] asio::posix::stream_descriptor &
	socket() noexcept
	{
		return socket_;
	}

	[[nodiscard]] asio::steady_timer &
	timer() noexcept
	{
		return timer_;
	}

	[[nodiscard]] asio::any_io_executor
	executor() noexcept
	{
		return socket_.get_executor();
	}

	[[nodiscard]] PGconn &
	connection() const noexcept
	{
		return connection_;
	}

	/// For the time of an operation. Should the connection be closed meanwhile, the duplicate must
	/// not keep the server waiting.
	void
	open(session &session)
	{
		int socket = duplicate();
		std::error_code failure;

		socket_.assign(socket, failure);
		if (failure)
		{
			::close(socket);
			throw std::system_error(failure, "postgres_lock");
		}
		was_nonblocking_ = PQisnonblocking(&connection_) != 0;
		PQsetnonblocking(&connection_, 1);
		session.on_end = [this] { close_socket(); };
	}

	void
	close(session &session) noexcept
	{
		close_socket();
		if (!session.alive)
			return;
		session.on_end = nullptr;
		if (!was_nonblocking_)
			PQsetnonblocking(&connection_, 0);
	}

	void
	send(exchange::message message, const statement &what, parameters values)
	{
		auto count = static_cast<int>(values.size());
		int sent = 0;

		switch (message)
		{
			case exchange::message::prepare:
				sent = PQsendPrepare(&connection_, what.name, what.text, 0, nullptr);
				break;
			case exchange::message::execute_prepared:
				sent = PQsendQueryPrepared(&connection_, what.name, count, values.data(), nullptr,
										   nullptr, 0);
				break;
			default:
				sent = PQsendQueryParams(&connection_, what.text, count, nullptr, values.data(),
										 nullptr, nullptr, 0);
		}
		if (sent == 0)
			throw_libpq_error(connection_, nullptr);
		result_.reset();
	}

	/// Sends and receives what is possible without waiting. True: the command has ended.
	[[nodiscard]] bool
	is_done()
	{
		int unsent = PQflush(&connection_);

		if (unsent < 0 || PQconsumeInput(&connection_) == 0)
			throw_libpq_error(connection_, result_.get());
		wants_to_write_ = unsent > 0;
		while (PQisBusy(&connection_) == 0)
		{
			result_ptr next(PQgetResult(&connection_));

			if (!next)
				return true;
			result_ = std::move(next);
		}
		return false;
	}

	[[nodiscard]] reply
	take_reply()
	{
		return reply_of(connection_, std::move(result_));
	}

	/// What to wait for until is_done() may be true.
	[[nodiscard]] asio::posix::stream_descriptor::wait_type
	next_event() const noexcept
	{
		return wants_to_write_ ? asio::posix::stream_descriptor::wait_write
							   : asio::posix::stream_descriptor::wait_read;
	}

  private:
	/// As libpq's own it must not go to child processes: there the session would live on.
	[[nodiscard]] int
	duplicate() const
	{
		if (PQstatus(&connection_) == CONNECTION_BAD)
			throw_libpq_error(connection_, nullptr);

		int made = fcntl(PQsocket(&connection_), F_DUPFD_CLOEXEC, 0);

		if (made < 0)
			throw std::system_error(errno, std::generic_category(), "postgres_lock");
		return made;
	}

	void
	close_socket() noexcept
	{
		std::error_code ignored;

		socket_.close(ignored);
	}

	PGconn &connection_;
	asio::posix::stream_descriptor socket_;
	asio::steady_timer timer_;
	result_ptr result_;
	bool was_nonblocking_ = false;
	bool wants_to_write_ = false;
};
} // namespace pglock::detail
