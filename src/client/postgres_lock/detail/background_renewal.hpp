// background_renewal.hpp: renews one lease on an executor, and says when it may be lost.
#pragma once

#include "asio_library.hpp"

#if defined(POSTGRES_LOCK_HAS_CO_AWAIT)
#include <chrono>
#include <exception>
#include <functional>
#include <libpq-fe.h>
#include <memory>
#include <utility>

#include "../lease.hpp"
#include "../libpq.hpp"
#include "async_connect.hpp"
#include "async_lease.hpp"
#include "body.hpp"
#include "lease_protocol.hpp"
#include "renewal_plan.hpp"

namespace pglock::detail
{
/// What a keeper does, but on an executor, to which it belongs. Two coroutines share it: one
/// renews, over a connection like the one that it is given, and one watches, whatever keeps the
/// other.
class background_renewal : public std::enable_shared_from_this<background_renewal>
{
  public:
	/// `on_loss` is called before the lease can be lost.
	background_renewal(PGconn &like, lease held, std::function<void()> on_loss)
		: parameters_(like), held_(std::move(held)), on_loss_(std::move(on_loss))
	{
	}

	void
	start(const asio::any_io_executor &executor)
	{
		asio::co_spawn(executor, renew(shared_from_this()),
					   asio::bind_cancellation_slot(renewing_.slot(), asio::detached));
		asio::co_spawn(executor, watch(shared_from_this()),
					   asio::bind_cancellation_slot(watching_.slot(), asio::detached));
	}

	/// A renewal that is under way goes on for a second at most; nobody waits for it.
	void
	stop()
	{
		renewing_.emit(asio::cancellation_type::terminal);
		watching_.emit(asio::cancellation_type::terminal);
	}

  private:
	using clock = lease::clock;

	static asio::awaitable<void>
	renew(std::shared_ptr<background_renewal> self)
	{
		connection_ptr connection(nullptr, PQfinish);
		clock::time_point next = first_renewal_of(self->held_);

		for (;;)
		{
			co_await sleep_until(next);

			renewal_outcome outcome = co_await self->renew_over(connection);

			if (outcome == renewal_outcome::lost)
				co_return self->on_loss_();
			next = clock::now() + pause_after(outcome, self->held_);
		}
	}

	/// Makes a connection if there is none.
	[[nodiscard]] asio::awaitable<renewal_outcome>
	renew_over(connection_ptr &connection)
	{
		try
		{
			if (!connection || connection_traits<PGconn>::lost(*connection))
				connection = co_await async_connect(parameters_, std::chrono::steady_clock::now() +
																	 renewal_limit(held_));

			auto over = connection_for(co_await asio::this_coro::executor, connection.get(), held_);
			bool renewed =
				co_await start_lease_question<lease_renewal>(over, held_, asio::use_awaitable,
															 time_limit(renewal_limit(held_)));

			co_return renewed ? renewal_outcome::renewed : renewal_outcome::lost;
		}
		catch (...)
		{
			if (is_cancellation(std::current_exception()))
				throw;
		}
		// cppcheck-suppress missingReturn ; it does not know coroutines
		co_return renewal_outcome::failed;
	}

	static asio::awaitable<void>
	watch(std::shared_ptr<background_renewal> self)
	{
		std::chrono::milliseconds margin = usual_margin(self->held_);
		asio::steady_timer timer(co_await asio::this_coro::executor);

		for (;;)
		{
			clock::duration left = wait_until(stop_time(self->held_, margin), clock::now());

			if (left == clock::duration::zero())
				co_return self->on_loss_();
			timer.expires_after(left);
			co_await timer.async_wait(asio::use_awaitable);
		}
	}

	static asio::awaitable<void>
	sleep_until(clock::time_point time)
	{
		asio::steady_timer timer(co_await asio::this_coro::executor);

		for (clock::time_point now = clock::now(); now < time; now = clock::now())
		{
			timer.expires_after(wait_until(time, now));
			co_await timer.async_wait(asio::use_awaitable);
		}
	}

	connection_parameters parameters_;
	lease held_;
	std::function<void()> on_loss_;
	asio::cancellation_signal renewing_;
	asio::cancellation_signal watching_;
};
} // namespace pglock::detail
#endif
