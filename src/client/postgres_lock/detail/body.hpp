// body.hpp: runs a coroutine while something is held, and cancels it when that is lost.
#pragma once

#include "asio_library.hpp"

#if defined(POSTGRES_LOCK_HAS_CO_AWAIT)
#include <concepts>
#include <exception>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "../error.hpp"
#include "operation.hpp"

namespace pglock::detail
{
/// The coroutine that a body makes, which may want to have the guard.
template <typename Guard, typename Body>
auto
start_body(Body &body, Guard &guard)
{
	if constexpr (std::invocable<Body &, Guard &>)
		return body(guard);
	else
		return body();
}

/// Its type, which has the executor's: that of the coroutine round it is the same.
template <typename Guard, typename Body>
using body_awaitable = decltype(start_body(std::declval<Body &>(), std::declval<Guard &>()));

template <typename Guard, typename Body>
using body_value = typename body_awaitable<Guard, Body>::value_type;

template <typename Guard, typename Body>
using body_executor = typename body_awaitable<Guard, Body>::executor_type;

/// What operations within that coroutine complete by.
template <typename Guard, typename Body>
inline constexpr asio::use_awaitable_t<body_executor<Guard, Body>> use_body_awaitable{};

/// How a body is cancelled: by whoever awaits it, or since what it relies on is lost. It is shared
/// with those who notice a loss, maybe after the body has ended, but on its executor.
class body_cancellation
{
  public:
	void
	cancel(asio::cancellation_type type)
	{
		if (is_over_)
			return;
		asked_ |= type;
		signal_.emit(type);
	}

	void
	lose()
	{
		is_lost_ = is_lost_ || !is_over_;
		cancel(asio::cancellation_type::terminal);
	}

	/// The body has ended, and nobody needs to watch any more.
	void
	end()
	{
		is_over_ = true;
		watch_signal_.emit(asio::cancellation_type::total);
	}

	[[nodiscard]] bool
	is_lost() const noexcept
	{
		return is_lost_;
	}

	[[nodiscard]] bool
	is_asked() const noexcept
	{
		return asked_ != asio::cancellation_type::none;
	}

	[[nodiscard]] asio::cancellation_slot
	slot() noexcept
	{
		return signal_.slot();
	}

	/// For an operation that watches while the body runs.
	[[nodiscard]] asio::cancellation_slot
	watch_slot() noexcept
	{
		return watch_signal_.slot();
	}

  private:
	asio::cancellation_signal signal_;
	asio::cancellation_signal watch_signal_;
	asio::cancellation_type asked_ = asio::cancellation_type::none;
	bool is_lost_ = false;
	bool is_over_ = false;
};

[[nodiscard]] inline bool
is_cancellation(const std::exception_ptr &failure) noexcept
{
	try
	{
		std::rethrow_exception(failure);
	}
	catch (const system_error &error)
	{
		return error.code() == make_error_code(asio::error::operation_aborted);
	}
	catch (...)
	{
		return false;
	}
}

/// The body as a coroutine of its own. What reaches it has passed the filters of the one that
/// awaits it, so nothing else is kept from it.
template <typename Guard, typename Body, typename Result>
asio::awaitable<void, body_executor<Guard, Body>>
run_cancellable(std::shared_ptr<body_cancellation> by, Body &body, Guard &guard, Result &result,
				bool throws)
{
	co_await asio::this_coro::reset_cancellation_state(asio::enable_total_cancellation());
	co_await asio::this_coro::throw_if_cancelled(throws);
	if (throws && by->is_asked())
		throw_cancelled();
	if constexpr (std::is_void_v<body_value<Guard, Body>>)
		co_await start_body(body, guard);
	else
		// cppcheck-suppress missingReturn ; it does not know coroutines
		result.emplace(co_await start_body(body, guard));
}

/// Runs the body and gives back what is held, whose `Holder` has:
///
/// `must_roll_back()`: has the body left a failed transaction, in which nothing can be released?
/// `stop_watching()`: the body has ended. `is_over()`: after a loss, is it lost for sure?
/// `loss()`: throws that it is lost. `start_restitution(after_error, token, asked)`.
/// `restitution_failed(failure, is_lost)`: nobody else hears of that.
///
/// A coroutine that has been cancelled, maybe too late for what is held, could not wait for
/// anything. So it must not throw then, from before this on: `throws` says whether it does
/// otherwise.
template <typename Guard, typename Holder, typename Body>
body_awaitable<Guard, Body>
run_body(Holder &holder, std::shared_ptr<body_cancellation> by, Guard &guard, Body &body,
		 bool throws)
{
	using value = body_value<Guard, Body>;

	asio::cancellation_state state = co_await asio::this_coro::cancellation_state;
	std::exception_ptr failure;
	std::optional<made_value<value>> result;

	try
	{
		if (state.slot().is_connected())
			state.slot().assign([by](asio::cancellation_type type) { by->cancel(type); });
		by->cancel(state.cancelled());
		co_await asio::co_spawn(co_await asio::this_coro::executor,
								run_cancellable(by, body, guard, result, throws),
								asio::bind_cancellation_slot(by->slot(),
															 use_body_awaitable<Guard, Body>));
	}
	catch (...)
	{
		failure = std::current_exception();
	}
	state.slot().clear();
	by->end();
	holder.stop_watching();
	if (by->is_lost() && state.cancelled() == asio::cancellation_type::none &&
		(failure ? is_cancellation(failure) : holder.is_over()))
		failure = holder.loss();

	// whoever has cancelled it does not wait for ever
	try
	{
		co_await holder.start_restitution(failure != nullptr || holder.must_roll_back(),
										  use_body_awaitable<Guard, Body>,
										  by->is_lost() ? asio::cancellation_type::terminal
														: state.cancelled());
	}
	catch (const std::exception &second)
	{
		// the body's failure is what the caller hears of; the end of the guard is the second try
		if (!failure)
			failure = std::current_exception();
		else
			holder.restitution_failed(second, by->is_lost());
	}
	co_await asio::this_coro::throw_if_cancelled(throws);
	if (failure)
		std::rethrow_exception(failure);
	if constexpr (!std::is_void_v<value>)
		// cppcheck-suppress missingReturn ; it does not know coroutines
		co_return std::move(*result);
}
} // namespace pglock::detail
#endif
