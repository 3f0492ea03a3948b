// cancel_service.hpp: interrupts the server without making the thread wait.
#pragma once

#include <array>
#include <cstddef>
#include <libpq-fe.h>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include <asio.hpp>

namespace pglock::detail
{
/// Sends cancel requests. libpq waits until they have arrived, so that is done by other threads.
/// They belong to the execution context, whose end waits for them.
class cancel_service : public asio::execution_context::service
{
  public:
	using key_type = cancel_service;
	static inline asio::execution_context::id id;

	explicit cancel_service(asio::execution_context &context)
		: asio::execution_context::service(context)
	{
	}

	/// Sends one for the command that the connection is running, and then posts `after` to the
	/// executor. Whether it was of any use shows in how the command ends.
	template <typename After>
	void
	send(PGconn &connection, asio::any_io_executor executor, After after)
	{
		asio::post(threads(), [cancel = cancel_ptr(PQgetCancel(&connection)),
							   executor = std::move(executor), after = std::move(after)]() mutable {
			std::array<char, 256> message;

			if (cancel)
				PQcancel(cancel.get(), message.data(), static_cast<int>(message.size()));
			cancel.reset();
			asio::post(executor, std::move(after));
		});
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

	/// One that hangs on a broken network must not keep the others from being sent.
	static constexpr std::size_t number_of_threads = 4;

	asio::thread_pool &
	threads()
	{
		std::lock_guard guard(mutex_);

		if (!threads_)
			threads_.emplace(number_of_threads);
		return *threads_;
	}

	void
	shutdown() noexcept override
	{
		threads_.reset();
	}

	std::mutex mutex_;
	std::optional<asio::thread_pool> threads_;
};
} // namespace pglock::detail
