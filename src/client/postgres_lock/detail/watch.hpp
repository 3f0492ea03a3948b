// watch.hpp: notices that a session has ended, though nobody sends anything.
#pragma once

#include <chrono>
#include <exception>
#include <memory>
#include <stop_token>
#include <system_error>
#include <utility>

#include <asio.hpp>

#include "../connection.hpp"
#include "session.hpp"

namespace pglock::detail
{
/// Looks at the socket now and then. It does not wait for it to become readable: what comes is an
/// answer to somebody else as a rule, and would stay readable until that one takes it.
class watch
{
  public:
	watch(asio::any_io_executor executor, connection_ref connection, std::stop_source stop)
		: connection_(connection), session_(connection.session()), stop_(std::move(stop)),
		  timer_(std::make_unique<asio::steady_timer>(std::move(executor)))
	{
	}

	template <typename Self> void operator()(Self &self, std::error_code error = {})
	{
		if (!std::exchange(has_begun_, true))
			self.reset_cancellation_state(asio::enable_total_cancellation());
		else if (error)
			return self.complete(std::make_exception_ptr(std::system_error(error)));
		else if (!session_->alive || connection_.lost())
		{
			stop_.request_stop();
			return self.complete(nullptr);
		}

		auto &timer = *timer_;

		// the first time at once
		timer.expires_after(is_first_ ? clock::duration::zero() : clock::duration(interval));
		is_first_ = false;
		timer.async_wait(std::move(self));
	}

	[[nodiscard]] const asio::steady_timer &
	timer() const noexcept
	{
		return *timer_;
	}

  private:
	using clock = std::chrono::steady_clock;

	static constexpr std::chrono::milliseconds interval{250};

	connection_ref connection_;
	std::shared_ptr<session> session_;
	std::stop_source stop_;
	std::unique_ptr<asio::steady_timer> timer_;
	bool has_begun_ = false;
	bool is_first_ = true;
};

template <typename Token>
auto
start_watch(asio::any_io_executor executor, connection_ref connection, std::stop_source &stop,
			Token &&token)
{
	return asio::async_compose<Token, void(std::exception_ptr)>(watch(executor, connection, stop),
																token, executor);
}
} // namespace pglock::detail
