// asio.hpp: locks for programs that must not wait in a thread: over a PGconn, with Asio. That is
// the standalone one, or Boost's if the program defines POSTGRES_LOCK_BOOST_ASIO, the same in all
// its files. Whatever waits is an operation with a completion token, so callbacks, futures and
// co_await all work:
//
//     auto guard = co_await pglock::async_acquire(executor, connection, "key", {.timeout = 5s});
//
// Without a token it is Asio's default one, or in versions of Asio that have none `use_awaitable`.
//
// Operations complete with an exception_ptr, which holds what the functions of lock.hpp throw, and
// their value. Of one connection, one operation or command can be under way at a time; another one
// fails with `error`. A connection, its locks and their completion handlers belong to one thread or
// strand. The library sets the connection to non-blocking while an operation is under way.
//
// An executor can be given by its context, too. As with Asio's own objects, the context has to
// outlive the locks. If it ends while an operation is under way, the connection is shut down.
//
// Cancellation: an operation that takes a lock can be cancelled at any time, with cancellation of
// any type. It then interrupts the server, and completes with `asio::error::operation_aborted` (as
// an `asio::system_error`) when the server has stopped: nothing is held by it, the connection can
// be used, and a transaction that was open still is. Only a lock at transaction scope that was free
// is taken all the same, when the cancellation comes too late. Other operations take one round
// trip, and go on. But a server or pooler that has stopped answering keeps nobody waiting: an
// operation of any kind that has been cancelled ends after a second, and has shut the connection
// down. So does one whose object has ended. Cancellation that has neither of the types `terminal`
// and `all` leaves the connection open, and waits for the server.
//
// From version 17 on libpq interrupts the server without waiting. Earlier ones wait until it has
// heard of that, which a thread of the library's does. On a network that has failed the thread
// lives until the system gives up (see libpq's tcp_user_timeout); nobody waits for it.
//
// Should somebody use the connection nevertheless while a lock is waited for, and read the answer,
// as `PQexec` does, the operation gives back what it has got, and fails with `error`.
#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>
#include <version>

#if defined(__cpp_lib_jthread)
#include <stop_token>
#endif

#include "detail/asio_library.hpp"
#include "detail/async_connection.hpp"
#include "detail/async_hold.hpp"
#include "detail/body.hpp"
#include "detail/guarded.hpp"
#include "detail/operation.hpp"
#include "error.hpp"
#include "key.hpp"
#include "libpq.hpp"
#include "options.hpp"

namespace pglock
{
#if defined(__cpp_lib_jthread)
/// Requests stop when the session has ended, and its locks with it: within a quarter of a second
/// after this machine has heard of it (of a network that fails without a word it hears by TCP's
/// keepalives). Completes then, and when somebody else has requested stop; until then it is under
/// way, and is to be cancelled if it is not wanted any more. It sends nothing but what
/// `options::keep_alive` of a lock asks for, and does not keep others from using the connection.
///
/// Signature: `void(std::exception_ptr)`.
template <typename Token = detail::default_token>
auto
async_watch(const detail::executor_argument &executor, connection_ref connection,
			std::stop_source &stop, Token &&token = Token())
{
	return detail::start_watch(executor, connection, connection.session(), stop, {},
							   std::forward<Token>(token));
}
#endif

/// A `lock` whose functions don't wait. It neither copies nor moves.
class async_lock
{
  public:
	/// Takes nothing yet.
	async_lock(const detail::executor_argument &executor, PGconn *connection, pglock::key key,
			   const options &options = {})
		: held_(detail::make_async_hold(executor, connection, {std::move(key)}, options))
	{
	}

	async_lock(const async_lock &) = delete;
	async_lock &operator=(const async_lock &) = delete;

	/// Cancels the operation that is under way. What is held after it is released as the last
	/// resort, and that waits for the answer; failures go to the handler, see
	/// `set_release_failure_handler`.
	~async_lock()
	{
		held_->end(false);
	}

	/// See `lock::acquire()`. Signature: `void(std::exception_ptr, bool)`.
	template <typename Token = detail::default_token>
	requires(!std::convertible_to<Token, time_limit>) auto async_acquire(Token &&token = Token())
	{
		return take(held_->timeout, std::forward<Token>(token));
	}

	template <typename Token = detail::default_token>
	auto
	async_acquire(time_limit timeout, Token &&token = Token())
	{
		return take(timeout, std::forward<Token>(token));
	}

	/// See `lock::try_acquire()`. Signature: `void(std::exception_ptr, bool)`.
	template <typename Token = detail::default_token>
	auto
	async_try_acquire(Token &&token = Token())
	{
		return take(std::chrono::milliseconds::zero(), std::forward<Token>(token));
	}

	/// See `lock::release()`. Signature: `void(std::exception_ptr, bool)`.
	template <typename Token = detail::default_token>
	auto
	async_release(Token &&token = Token())
	{
		return detail::start_restitution(held_, false, std::forward<Token>(token));
	}

	/// See `lock::handle_error()`. Signature: `void(std::exception_ptr, bool)`.
	template <typename Token = detail::default_token>
	auto
	async_handle_error(Token &&token = Token())
	{
		return detail::start_restitution(held_, true, std::forward<Token>(token));
	}

	/// See `lock::token()`. Signature: `void(std::exception_ptr, std::int64_t)`.
	template <typename Token = detail::default_token>
	auto
	async_token(Token &&token = Token())
	{
		return detail::start_question(held_, detail::token_statement, key(),
									  std::forward<Token>(token));
	}

	/// See `lock::lock_id()`. Signature: `void(std::exception_ptr, std::int64_t)`.
	template <typename Token = detail::default_token>
	auto
	async_lock_id(Token &&token = Token())
	{
		return detail::start_question(held_, detail::lock_id_statement, key(),
									  std::forward<Token>(token));
	}

#if defined(__cpp_lib_jthread)
	/// See `pglock::async_watch()`.
	template <typename Token = detail::default_token>
	auto
	async_watch(std::stop_source &stop, Token &&token = Token())
	{
		return detail::start_watch(held_, stop, std::forward<Token>(token));
	}
#endif

	/// See `lock::locked()`.
	[[nodiscard]] bool
	locked() const noexcept
	{
		return held_->hold.depth() > 0;
	}

	/// See `lock::depth()`.
	[[nodiscard]] unsigned
	depth() const noexcept
	{
		return held_->hold.depth();
	}

	[[nodiscard]] const pglock::key &
	key() const noexcept
	{
		return held_->hold.keys().front();
	}

	/// See `lock::lost()`.
	[[nodiscard]] bool
	lost() const noexcept
	{
		return held_->hold.lost();
	}

	[[nodiscard]] asio::any_io_executor
	get_executor() const noexcept
	{
		return held_->channel.executor();
	}

  private:
	template <typename Token>
	auto
	take(const detail::wait_time &time, Token &&token)
	{
		return detail::start<detail::acquisition>(held_, std::forward<Token>(token),
												  &detail::is_taken<detail::acquisition>,
												  held_->hold, time);
	}

	std::shared_ptr<detail::async_hold> held_;
};

/// A `guard` that `async_acquire()` makes. Release it by `async_unlock()`, or after an exception by
/// `async_handle_error()`: as a last resort its end does what the end of a `guard` does, and like
/// that waits for the answer; so does assigning another one to it. `with_lock()` does all of this.
class [[nodiscard]] async_guard
{
  public:
	/// Holds nothing.
	async_guard() = default;

	/// For the library itself.
	[[nodiscard]] explicit async_guard(std::shared_ptr<detail::async_hold> held) noexcept
		: held_(std::move(held))
	{
	}

	/// Gives the locks back. False: they are held at transaction scope, or not any more. Throws
	/// `std::logic_error` at once if it holds nothing, as all its operations do. Signature:
	/// `void(std::exception_ptr, bool)`.
	template <typename Token = detail::default_token>
	auto
	async_unlock(Token &&token = Token())
	{
		return detail::start_restitution(held(), false, std::forward<Token>(token));
	}

	/// See `lock::handle_error()`. Signature: `void(std::exception_ptr, bool)`.
	template <typename Token = detail::default_token>
	auto
	async_handle_error(Token &&token = Token())
	{
		return detail::start_restitution(held(), true, std::forward<Token>(token));
	}

	/// See `guard::token()`. Signature: `void(std::exception_ptr, std::int64_t)`.
	template <typename Token = detail::default_token>
	requires(!std::convertible_to<Token, key>) auto async_token(Token &&token = Token())
	{
		return async_token(held()->hold.keys().front(), std::forward<Token>(token));
	}

	template <typename Token = detail::default_token>
	auto
	async_token(key key, Token &&token = Token())
	{
		return detail::start_question(held(), detail::token_statement, std::move(key),
									  std::forward<Token>(token));
	}

#if defined(__cpp_lib_jthread)
	/// See `pglock::async_watch()`.
	template <typename Token = detail::default_token>
	auto
	async_watch(std::stop_source &stop, Token &&token = Token())
	{
		return detail::start_watch(held(), stop, std::forward<Token>(token));
	}
#endif

	/// See `lock::locked()`.
	[[nodiscard]] bool
	locked() const noexcept
	{
		return held_.get() && held_.get()->hold.depth() > 0;
	}

	/// See `lock::lost()`.
	[[nodiscard]] bool
	lost() const noexcept
	{
		return held_.get() && held_.get()->hold.lost();
	}

  protected:
	[[nodiscard]] const std::shared_ptr<detail::async_hold> &
	held() const
	{
		if (!held_.get())
			throw std::logic_error("the guard holds nothing");
		return held_.get();
	}

  private:
	detail::guarded<std::shared_ptr<detail::async_hold>> held_;
};

/// A `slot_guard` that `async_acquire_slot()` makes. Otherwise as `async_guard`.
class [[nodiscard]] async_slot_guard : async_guard
{
  public:
	/// Holds nothing.
	async_slot_guard() = default;

	/// For the library itself.
	[[nodiscard]] explicit async_slot_guard(std::shared_ptr<detail::async_hold> held) noexcept
		: async_guard(std::move(held))
	{
	}

	/// See `slot_guard::slot()`.
	[[nodiscard]] int
	slot() const
	{
		return held()->hold.slot();
	}

	using async_guard::async_handle_error;
	using async_guard::async_unlock;
#if defined(__cpp_lib_jthread)
	using async_guard::async_watch;
#endif
	using async_guard::locked;
	using async_guard::lost;
};

namespace detail
{
template <typename Guard, typename Token>
auto
start_guard(const std::shared_ptr<async_hold> &held, Token &&token)
{
	return start<acquisition>(
		held, std::forward<Token>(token),
		[held](const acquisition &ended) {
			if (!is_taken(ended))
				held->hold.throw_timeout();
			return Guard(held);
		},
		held->hold, held->timeout);
}
} // namespace detail

/// Takes the locks of all the keys or none, see `guard`: `keys` is a key, several in braces, or a
/// vector of them. If the timeout passes, completes with `timeout_error`. Throws at once what needs
/// no server to know: `std::invalid_argument` if there is no key or no connection. Signature:
/// `void(std::exception_ptr, async_guard)`.
template <typename Token = detail::default_token>
auto
async_acquire(const detail::executor_argument &executor, PGconn *connection,
			  detail::keys_argument keys, const options &options = {}, Token &&token = Token())
{
	return detail::start_guard<async_guard>(detail::make_async_hold(executor, connection,
																	std::move(keys), options),
											std::forward<Token>(token));
}

/// Takes one of the slots of a key, see `slot_guard`. If the timeout passes, completes with
/// `timeout_error`. Throws at once what needs no server to know. Signature:
/// `void(std::exception_ptr, async_slot_guard)`.
template <typename Token = detail::default_token>
auto
async_acquire_slot(const detail::executor_argument &executor, PGconn *connection, key key,
				   int slots, const options &options = {}, Token &&token = Token())
{
	return detail::start_guard<async_slot_guard>(detail::make_async_hold(executor, connection,
																		 {std::move(key)}, options,
																		 slots),
												 std::forward<Token>(token));
}

#if defined(POSTGRES_LOCK_HAS_CO_AWAIT)
namespace detail
{
/// What run_body() needs to know of a hold.
class lock_holder
{
  public:
	explicit lock_holder(std::shared_ptr<async_hold> held) noexcept : held_(std::move(held))
	{
	}

	/// Has the body cancelled when the session has ended.
	void
	watch_session([[maybe_unused]] const std::shared_ptr<body_cancellation> &by)
	{
#if defined(__cpp_lib_jthread)
		std::stop_source stop;

		// what has just been granted needs no look
		start_watch(held_->channel.executor(), held_->link.connection, held_->link.session, stop,
					held_->keep_alive,
					asio::bind_cancellation_slot(by->watch_slot(),
												 [by](std::exception_ptr failure) {
													 if (!failure)
														 by->lose();
												 }),
					watch::interval);
#endif
	}

	[[nodiscard]] bool
	must_roll_back() const noexcept
	{
		return held_->hold.rolls_back_failed();
	}

	void
	stop_watching() noexcept
	{
	}

	[[nodiscard]] bool
	is_over() const noexcept
	{
		return true;
	}

	[[nodiscard]] std::exception_ptr
	loss() const
	{
		return std::make_exception_ptr(connection_lost("the session has ended, and " +
													   held_->hold.description() + " with it"));
	}

	template <typename Token>
	auto
	start_restitution(bool after_error, Token &&token, asio::cancellation_type asked)
	{
		return detail::start_restitution(held_, after_error, std::forward<Token>(token), asked);
	}

	void
	restitution_failed(const std::exception &failure, bool is_lost) const noexcept
	{
		// whoever has heard of the loss knows it, and the end of the guard tells of what it holds
		if (!is_lost && held_->hold.depth() == 0)
			held_->hold.report_release_failure(failure);
	}

  private:
	std::shared_ptr<async_hold> held_;
};

/// The coroutine of with_lock() and with_slot().
template <typename Guard, typename Body>
body_awaitable<Guard, Body>
run_with(PGconn *connection, std::vector<key> keys, options options, slot_count slots, Body body)
{
	auto held = make_async_hold(co_await asio::this_coro::executor, connection, std::move(keys),
								options, slots);
	Guard guard = co_await start_guard<Guard>(held, use_body_awaitable<Guard, Body>);
	auto by = std::make_shared<body_cancellation>();
	lock_holder holder(std::move(held));

	holder.watch_session(by);

	bool throws = co_await asio::this_coro::throw_if_cancelled();

	co_await asio::this_coro::throw_if_cancelled(false);
	co_return co_await run_body(holder, by, guard, body, throws);
}
} // namespace detail

/// Runs the coroutine that `body` makes while the locks are held, on the executor of the coroutine
/// that awaits this. When the body ends, gives the locks back; when it throws, or has left a failed
/// transaction, first rolls back the one that is open (see `options::rollback_on_error`), then
/// gives them back, and throws on. Cancelling it cancels the wait for the locks, or the body. When
/// the session has ended, the body is cancelled as by `async_watch()`, and `connection_lost` is
/// thrown. The body must not leave a command under way on the connection: then the locks can't be
/// released, which the handler is told.
///
/// `co_await pglock::with_lock(connection, "key", {}, [&]() -> asio::awaitable<void> { ... });`
///
/// The body may take an `async_guard &`, for its token and to know whether it is lost. It may also
/// be an `awaitable` with another executor than `any_io_executor`, such as a strand: this is one
/// then, too.
template <typename Body>
detail::body_awaitable<async_guard, Body>
with_lock(PGconn *connection, detail::keys_argument keys, options options, Body body)
{
	return detail::run_with<async_guard>(connection, std::move(keys), options, {}, std::move(body));
}

/// The same with one of the slots of a key. The body may take an `async_slot_guard &`, for the
/// number of the slot.
template <typename Body>
detail::body_awaitable<async_slot_guard, Body>
with_slot(PGconn *connection, key key, int slots, options options, Body body)
{
	return detail::run_with<async_slot_guard>(connection, {std::move(key)}, options, slots,
											  std::move(body));
}
#endif
} // namespace pglock
