// async_hold.hpp: a hold whose operations don't wait in the thread.
#pragma once

#include <chrono>
#include <concepts>
#include <memory>
#include <utility>
#include <vector>

#include "../key.hpp"
#include "../options.hpp"
#include "answer.hpp"
#include "asio_library.hpp"
#include "blocking_hold.hpp"
#include "channel.hpp"
#include "interruption.hpp"
#include "keys.hpp"
#include "request.hpp"

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

/// A hold and its channel. Operations keep it, so that it outlives the object of the user.
struct async_hold
{
	async_hold(asio::any_io_executor executor, PGconn *connection, std::vector<key> keys,
			   const options &options, slot_count slots)
		: hold(connection, std::move(keys), options, slots), channel(executor, *connection),
		  interruption(std::move(executor)), timeout(options.timeout)
	{
	}

	/// The end of the user's object. What is held is released, and that waits for the answer. If an
	/// operation is under way, it is cancelled, and that is done at its end.
	void
	end(bool by_error) noexcept
	{
		if (operations == 0)
			return hold.end(by_error);

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

	blocking_hold hold;
	detail::channel channel;
	detail::interruption interruption;
	wait_time timeout;

	/// How long a cancelled operation waits for the server before it closes the connection.
	std::chrono::milliseconds grace{1000};

	unsigned operations = 0;
	bool is_abandoned = false;
	bool is_ended_by_error = false;
};

/// The use that one operation makes of an async_hold.
class usage
{
  public:
	explicit usage(async_hold &of) noexcept : of_(&of)
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
			of_->hold.end(of_->is_ended_by_error);
	}

	void
	open_channel()
	{
		if (is_open_)
			return;
		of_->channel.open();
		of_->hold.session()->on_end = [of = of_] {
			of->channel.close_socket();
			of->interruption.wake();
		};
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
		of_->hold.session()->on_end = nullptr;
		of_->channel.close();
	}

  private:
	[[nodiscard]] bool
	is_usable() const noexcept
	{
		return of_->hold.session()->alive && of_->hold.session()->is_ours();
	}

	async_hold *of_;
	bool is_open_ = false;
};

/// Throws `std::invalid_argument` for a null connection.
[[nodiscard]] inline std::shared_ptr<async_hold>
make_async_hold(asio::any_io_executor executor, PGconn *connection, std::vector<key> keys,
				const options &options, slot_count slots = {})
{
	return std::make_shared<async_hold>(std::move(executor), connection, std::move(keys), options,
										slots);
}
} // namespace pglock::detail
