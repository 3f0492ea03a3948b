// interruption.hpp: a cancel request as Asio sees it.
#pragma once

#include <libpq-fe.h>
#include <optional>
#include <system_error>
#include <utility>

#include "asio_library.hpp"
#include "cancel_request.hpp"

namespace pglock::detail
{
/// Interrupts the server, as often as it takes. Whether a request was of any use shows in how the
/// command ends.
class interruption
{
  public:
	explicit interruption(asio::any_io_executor executor) : socket_(std::move(executor))
	{
	}

	interruption(const interruption &) = delete;
	interruption &operator=(const interruption &) = delete;

	~interruption()
	{
		abandon();
	}

	/// Throws if it can't be sent.
	void
	send(PGconn &connection)
	{
		abandon();
		request_.emplace(connection);
	}

	/// Goes on as far as possible without waiting. True: no request is under way.
	[[nodiscard]] bool
	is_over() noexcept
	{
		leave_socket();
		if (request_ && !request_->is_over())
			return false;
		request_.reset();
		return true;
	}

	/// The request that is under way may arrive or not.
	void
	abandon() noexcept
	{
		leave_socket();
		request_.reset();
	}

	/// To be called before async_wait(). Throws if the system does not let us wait.
	void
	prepare_wait()
	{
		socket_.assign(request_->socket());
	}

	/// Waits until is_over() may be true.
	template <typename After>
	void
	async_wait(After &&after)
	{
		socket_.async_wait(request_->wants_to_write() ? asio::posix::stream_descriptor::wait_write
													  : asio::posix::stream_descriptor::wait_read,
						   std::forward<After>(after));
	}

	/// Ends the wait.
	void
	wake() noexcept
	{
		error_code ignored;

		socket_.cancel(ignored);
	}

  private:
	/// It belongs to the request, which may close it when it goes on.
	void
	leave_socket() noexcept
	{
		if (socket_.is_open())
			socket_.release();
	}

	asio::posix::stream_descriptor socket_;
	std::optional<cancel_request> request_;
};
} // namespace pglock::detail
