// watch.hpp: notices that a session has ended, though nobody sends anything.
#pragma once

#include <version>

// not every standard library has stop sources
#if defined(__cpp_lib_jthread)
#include <chrono>
#include <exception>
#include <memory>
#include <optional>
#include <stop_token>
#include <system_error>
#include <utility>

#include "../connection.hpp"
#include "../options.hpp"
#include "asio_library.hpp"
#include "session.hpp"

namespace pglock::detail
{
/// Looks at the socket now and then. It does not wait for it to become readable: what comes is an
/// answer to somebody else as a rule, and would stay readable until that one takes it.
class watch
{
  public:
	static constexpr std::chrono::milliseconds interval{250};

	/// After that time it looks first.
	watch(asio::any_io_executor executor, connection_ref connection,
		  std::shared_ptr<session> session, std::stop_source stop,
		  std::optional<time_limit> keep_alive, std::chrono::milliseconds first)
		: connection_(connection), session_(std::move(session)), stop_(std::move(stop)),
		  keep_alive_(keep_alive), first_(first),
		  timer_(std::make_unique<asio::steady_timer>(std::move(executor)))
	{
	}

	template <typename Self> void operator()(Self &self, error_code = {})
	{
		bool begins = !std::exchange(has_begun_, true);

		if (begins)
			self.reset_cancellation_state(asio::enable_total_cancellation());
		// not what the timer says: a cancellation may come when it has expired, before we are
		// called
		else if (self.get_cancellation_state().cancelled() != asio::cancellation_type::none)
			return self.complete(std::make_exception_ptr(
				system_error(make_error_code(asio::error::operation_aborted))));
		else if (is_over())
		{
			stop_.request_stop();
			return self.complete(nullptr);
		}
		else
			keep_alive();

		auto &timer = *timer_;

		timer.expires_after(begins ? first_ : interval);
		timer.async_wait(std::move(self));
	}

  private:
	using clock = std::chrono::steady_clock;

	[[nodiscard]] bool
	is_over() const noexcept
	{
		return stop_.stop_requested() || !session_->alive || connection_.lost();
	}

	/// Only its own session, which is alive.
	void
	keep_alive() noexcept
	{
		auto now = clock::now();

		if (!keep_alive_ || now < keep_alive_at_)
			return;
		keep_alive_at_ = now + std::chrono::milliseconds(*keep_alive_);
		connection_.keep_alive();
	}

	connection_ref connection_;
	std::shared_ptr<session> session_;
	std::stop_source stop_;
	std::optional<time_limit> keep_alive_;
	clock::time_point keep_alive_at_{};
	std::chrono::milliseconds first_;
	std::unique_ptr<asio::steady_timer> timer_;
	bool has_begun_ = false;
};

template <typename Token>
auto
start_watch(asio::any_io_executor executor, connection_ref connection,
			std::shared_ptr<session> session, std::stop_source &stop,
			std::optional<time_limit> keep_alive, Token &&token,
			std::chrono::milliseconds first = std::chrono::milliseconds::zero())
{
	return asio::async_compose<Token, void(std::exception_ptr)>(
		watch(executor, connection, std::move(session), stop, keep_alive, first), token, executor);
}
} // namespace pglock::detail
#endif
