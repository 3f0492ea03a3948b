// channel.hpp: a PGconn that does not block, as Asio sees it.
#pragma once

#include <exception>
#include <libpq-events.h>
#include <libpq-fe.h>
#include <new>
#include <utility>

#include "../libpq.hpp"
#include "asio_library.hpp"
#include "file.hpp"
#include "statements.hpp"

namespace pglock::detail
{
class channel;

/// libpq tells of every result that is read from a connection with a command of ours.
inline int result_event(PGEventId id, void *info, void *);

/// Gives Asio a duplicate of libpq's socket, which libpq may close meanwhile. As libpq's own it
/// must not go to child processes: there the session would live on.
inline void
assign_duplicate(asio::posix::stream_descriptor &to, const PGconn &connection)
{
	file made = duplicate_of(PQsocket(&connection));
	error_code failure;

	to.assign(made.get(), failure);
	if (failure)
		throw system_error(failure, "postgres_lock");
	made.release();
}

/// One connection as Asio sees it. Its socket is a duplicate, since others may have registered
/// libpq's own, and is there from the first operation on.
///
/// Others must not use the connection while a command of ours is under way, but nothing stops them:
/// `PQexec` waits for our answer, and throws it away. We overhear it then.
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

	/// Has it a socket of the connection?
	[[nodiscard]] bool
	is_open() const noexcept
	{
		return socket_.is_open();
	}

	/// For the time of an operation.
	void
	open()
	{
		if (!is_open())
			open_socket();
		if (PQsetInstanceData(&connection_, result_event, this) == 0)
			throw std::bad_alloc();
		was_nonblocking_ = PQisnonblocking(&connection_) != 0;
		PQsetnonblocking(&connection_, 1);
	}

	/// Before the connection is used by others.
	void
	close() noexcept
	{
		timer_.cancel();
		PQsetInstanceData(&connection_, result_event, nullptr);
		if (!was_nonblocking_)
			PQsetnonblocking(&connection_, 0);
	}

	/// The connection has been closed. The duplicate must not keep the server waiting.
	void
	close_socket() noexcept
	{
		error_code ignored;

		socket_.close(ignored);
		timer_.cancel();
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
		is_overheard_ = false;
		flush();
	}

	/// Sends and receives what is possible without waiting. True: the command has ended.
	[[nodiscard]] bool
	is_done()
	{
		if (is_overheard_)
			return true;

		flush();
		if (PQconsumeInput(&connection_) == 0)
			throw_libpq_error(connection_, result_.get());
		while (PQisBusy(&connection_) == 0)
		{
			result_ptr next = read();

			if (!next)
				return true;
			result_ = std::move(next);
		}
		return false;
	}

	/// Has somebody else read the answer?
	[[nodiscard]] bool
	is_overheard() const noexcept
	{
		return is_overheard_;
	}

	[[nodiscard]] reply
	take_reply()
	{
		if (!is_overheard_)
			return reply_of(connection_, std::move(result_));
		if (overheard_failure_)
			std::rethrow_exception(std::exchange(overheard_failure_, nullptr));
		return std::move(overheard_);
	}

	/// Called by libpq. What others read after the answer is not ours.
	void
	result_read(const PGresult *result) noexcept
	{
		if (is_reading_ || is_overheard_)
			return;
		is_overheard_ = true;
		try
		{
			overheard_ = reply_of(connection_, result_ ? result_.get() : result);
		}
		catch (...)
		{
			overheard_failure_ = std::current_exception();
		}
		wake();
	}

	/// Ends the wait for the socket.
	void
	wake() noexcept
	{
		error_code ignored;

		socket_.cancel(ignored);
	}

	/// What to wait for until is_done() may be true.
	[[nodiscard]] asio::posix::stream_descriptor::wait_type
	next_event() const noexcept
	{
		return wants_to_write_ ? asio::posix::stream_descriptor::wait_write
							   : asio::posix::stream_descriptor::wait_read;
	}

  private:
	void
	open_socket()
	{
		PQregisterEventProc(&connection_, result_event, "postgres_lock channel", nullptr);

		if (PQstatus(&connection_) == CONNECTION_BAD)
			throw_libpq_error(connection_, nullptr);
		assign_duplicate(socket_, connection_);
	}

	void
	flush()
	{
		int unsent = PQflush(&connection_);

		if (unsent < 0)
			throw_libpq_error(connection_, result_.get());
		wants_to_write_ = unsent > 0;
	}

	[[nodiscard]] result_ptr
	read() noexcept
	{
		is_reading_ = true;

		result_ptr result(PQgetResult(&connection_));

		is_reading_ = false;
		return result;
	}

	PGconn &connection_;
	asio::posix::stream_descriptor socket_;
	asio::steady_timer timer_;
	result_ptr result_;
	reply overheard_;
	std::exception_ptr overheard_failure_;
	bool is_overheard_ = false;
	bool is_reading_ = false;
	bool was_nonblocking_ = false;
	bool wants_to_write_ = false;
};

inline int
result_event(PGEventId id, void *info, void *)
{
	if (id == PGEVT_RESULTCREATE)
	{
		auto *created = static_cast<PGEventResultCreate *>(info);

		if (auto *waiting = static_cast<channel *>(PQinstanceData(created->conn, result_event)))
			waiting->result_read(created->result);
	}
	else if (id == PGEVT_CONNRESET) // what was under way has ended with the session
		PQsetInstanceData(static_cast<PGEventConnReset *>(info)->conn, result_event, nullptr);
	return 1;
}
} // namespace pglock::detail
