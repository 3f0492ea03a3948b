// async_connection.hpp: a connection whose answers are not waited for in the thread.
#pragma once

#include <chrono>
#include <concepts>
#include <libpq-fe.h>
#include <memory>
#include <optional>
#include <utility>

#include "../libpq.hpp"
#include "../options.hpp"
#include "answer.hpp"
#include "asio_library.hpp"
#include "channel.hpp"
#include "interruption.hpp"
#include "session.hpp"
#include "session_link.hpp"

namespace pglock::detail
{
/// An executor, or that of an execution context.
class executor_argument
{
  public:
	template <std::convertible_to<asio::any_io_executor> Executor>
	executor_argument(const Executor &executor) : executor_(executor)
	{
	}

	template <std::derived_from<asio::execution_context> Context>
	executor_argument(Context &context) : executor_(context.get_executor())
	{
	}

	operator asio::any_io_executor() const
	{
		return executor_;
	}

  private:
	asio::any_io_executor executor_;
};

/// A connection for the operations of one object, which keep it, so that it outlives the object of
/// the user. Throws `std::invalid_argument` for a null one.
struct async_connection
{
	async_connection(asio::any_io_executor executor, PGconn *connection, pglock::statements how)
		: link(connection), channel(executor, *connection), interruption(std::move(executor)),
		  statements(how)
	{
	}

	async_connection(const async_connection &) = delete;
	async_connection &operator=(const async_connection &) = delete;

	virtual ~async_connection() = default;

	/// The end of the user's object. What is held is released, and that waits for the answer. If an
	/// operation is under way, it is cancelled, and that is done at its end.
	void
	end(bool by_error) noexcept
	{
		if (operations == 0)
			return release(by_error);

		is_abandoned = true;
		is_ended_by_error = by_error;
		wake();
	}

	/// Has the operation that is under way look what has changed.
	void
	wake() noexcept
	{
		channel.wake();
		interruption.wake();
	}

	/// For what does not end with its session, see session_link.
	void
	follow_session() noexcept
	{
		if (operations == 0)
			link.follow();
	}

	/// To be called before a statement is sent, by who has the use of it.
	void
	open_channel()
	{
		if (!channel.is_open())
			end_of_session.emplace(link.session, [this] {
				channel.close_socket();
				interruption.wake();
			});
		channel.open();
	}

	session_link link;
	detail::channel channel;
	detail::interruption interruption;
	pglock::statements statements;

	/// How often who watches the session keeps it alive. Nothing: never.
	std::optional<time_limit> keep_alive;

	/// Of the session whose socket the channel has.
	std::optional<session_end> end_of_session;

	/// How long a cancelled operation waits for the server before it closes the connection.
	std::chrono::milliseconds grace{1000};

	unsigned operations = 0;
	bool is_abandoned = false;
	bool is_ended_by_error = false;

  protected:
	friend class usage;

	/// Releases what the object holds.
	virtual void
	release(bool) noexcept
	{
	}
};

/// The use that one operation makes of an async_connection.
class usage
{
  public:
	explicit usage(async_connection &of) noexcept : of_(&of)
	{
		of.operations++;
	}

	usage(usage &&other) noexcept : of_(std::exchange(other.of_, nullptr)), is_open_(other.is_open_)
	{
	}

	usage &operator=(usage &&) = delete;

	~usage()
	{
		if (of_ == nullptr)
			return;
		// destroyed before its end: nobody would read the answer, which may be a lock
		if (is_open_ && is_usable())
			shut_down(of_->channel.connection());
		close_channel();
		if (--of_->operations == 0 && of_->is_abandoned)
			of_->release(of_->is_ended_by_error);
	}

	void
	open_channel()
	{
		if (is_open_)
			return;
		of_->open_channel();
		is_open_ = true;
	}

	void
	close_channel() noexcept
	{
		if (!std::exchange(is_open_, false))
			return;
		of_->interruption.abandon();
		if (!is_usable())
			return of_->channel.close_socket();
		of_->channel.close();
	}

  private:
	[[nodiscard]] bool
	is_usable() const noexcept
	{
		return of_->link.session->alive && of_->link.session->is_ours();
	}

	async_connection *of_;
	bool is_open_ = false;
};
} // namespace pglock::detail
