// asio_lease.hpp: leases for programs that must not wait in a thread: over a PGconn, with Asio.
// What asio.hpp says of operations, their cancellation and their completion tokens is true of
// these.
//
//     auto guard = co_await pglock::async_acquire_lease(executor, connection, "key", {.ttl = 15s});
//
// A server that does not answer keeps nobody waiting for longer than `lease_options::grace` says,
// but for a check: that waits for a takeover that is under way, and is to be cancelled. To cancel a
// check costs the transaction.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <libpq-fe.h>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <version>

#if defined(__cpp_lib_jthread)
#include <stop_token>
#endif

#include "detail/asio_library.hpp"
#include "detail/async_connection.hpp"
#include "detail/async_lease.hpp"
#include "detail/background_renewal.hpp"
#include "detail/body.hpp"
#include "detail/guarded.hpp"
#include "detail/lease_protocol.hpp"
#include "detail/operation.hpp"
#include "error.hpp"
#include "keeper.hpp"
#include "key.hpp"
#include "lease.hpp"
#include "options.hpp"

namespace pglock
{
/// Takes a lease, see `lease::acquire()`. Signature: `void(std::exception_ptr,
/// std::optional<lease>)`; nothing: the timeout passed.
template <typename Token = detail::default_token>
auto
async_take_lease(const detail::executor_argument &executor, PGconn *connection, key key,
				 const lease_options &options = {}, Token &&token = Token())
{
	lease wanted(detail::new_lease(std::move(key), options));
	auto over = detail::connection_for(executor, connection, wanted);

	return detail::start<detail::lease_acquisition>(
		over, std::forward<Token>(token),
		[wanted](const detail::lease_acquisition &ended) {
			return detail::is_taken(ended) ? std::optional(wanted) : std::nullopt;
		},
		wanted.state(), over->link, options, true);
}

/// See `lease::renew()`. Signature: `void(std::exception_ptr, bool)`.
template <typename Token = detail::default_token>
auto
async_renew_lease(const detail::executor_argument &executor, PGconn *connection, const lease &held,
				  Token &&token = Token())
{
	return detail::start_lease_question<detail::lease_renewal>(
		detail::connection_for(executor, connection, held), held, std::forward<Token>(token),
		held.state()->grace());
}

/// See `lease::check()`. Signature: `void(std::exception_ptr)`.
template <typename Token = detail::default_token>
auto
async_check_lease(const detail::executor_argument &executor, PGconn *connection, const lease &held,
				  Token &&token = Token())
{
	return detail::start_lease_check(detail::connection_for(executor, connection, held), held,
									 std::forward<Token>(token));
}

/// See `lease::held()`. Signature: `void(std::exception_ptr, bool)`.
template <typename Token = detail::default_token>
auto
async_holds_lease(const detail::executor_argument &executor, PGconn *connection, const lease &held,
				  Token &&token = Token())
{
	return detail::start_lease_question<detail::lease_inquiry>(
		detail::connection_for(executor, connection, held), held, std::forward<Token>(token),
		held.state()->grace());
}

/// See `lease::release()`. Signature: `void(std::exception_ptr, bool)`.
template <typename Token = detail::default_token>
auto
async_release_lease(const detail::executor_argument &executor, PGconn *connection,
					const lease &held, Token &&token = Token())
{
	return detail::start_lease_question<detail::lease_release>(
		detail::connection_for(executor, connection, held), held, std::forward<Token>(token),
		held.state()->grace());
}

/// A `lease_guard` that `async_acquire_lease()` makes. Release it by `async_release()`, or after an
/// exception by `async_handle_error()`: as a last resort its end does what the end of a
/// `lease_guard` does, and like that waits for the answer; so does assigning another one to it.
/// `with_lease()` does all of this.
///
/// Its operations throw `std::logic_error` at once if it holds nothing.
class [[nodiscard]] async_lease_guard
{
  public:
	/// Holds nothing.
	async_lease_guard() = default;

	/// For the library itself.
	[[nodiscard]] explicit async_lease_guard(
		std::shared_ptr<detail::async_held_lease> held) noexcept
		: held_(std::move(held))
	{
	}

	/// See `lease::renew()`. Signature: `void(std::exception_ptr, bool)`.
	template <typename Token = detail::default_token>
	auto
	async_renew(Token &&token = Token())
	{
		return detail::start_lease_question<detail::lease_renewal>(held(), lease(),
																   std::forward<Token>(token),
																   lease().state()->grace());
	}

	/// See `lease::check()`. Signature: `void(std::exception_ptr)`.
	template <typename Token = detail::default_token>
	auto
	async_check(Token &&token = Token())
	{
		return detail::start_lease_check(held(), lease(), std::forward<Token>(token));
	}

	/// Gives the lease back. False: it is not held any more. If it fails, the end tries again.
	/// Signature: `void(std::exception_ptr, bool)`.
	template <typename Token = detail::default_token>
	auto
	async_release(Token &&token = Token())
	{
		return detail::start_lease_restitution(held(), false, std::forward<Token>(token));
	}

	/// For a `catch`: first rolls back the transaction that is open on the connection, if
	/// `rollback_on_error` says so. Signature: `void(std::exception_ptr, bool)`.
	template <typename Token = detail::default_token>
	auto
	async_handle_error(Token &&token = Token())
	{
		return detail::start_lease_restitution(held(), true, std::forward<Token>(token));
	}

	/// The lease, for a `keeper`, or to be used over another connection.
	[[nodiscard]] pglock::lease
	lease() const
	{
		return held()->held.get();
	}

	/// See `lease::token()`.
	[[nodiscard]] std::int64_t
	token() const
	{
		return held()->held.get().token();
	}

	/// See `lease::expired()`.
	[[nodiscard]] bool
	expired() const
	{
		return held()->held.get().expired();
	}

  private:
	[[nodiscard]] const std::shared_ptr<detail::async_held_lease> &
	held() const
	{
		if (!held_.get())
			throw std::logic_error("the guard holds nothing");
		return held_.get();
	}

	detail::guarded<std::shared_ptr<detail::async_held_lease>> held_;
};

/// Takes a lease for a guard. If the timeout passes, completes with `timeout_error`. Signature:
/// `void(std::exception_ptr, async_lease_guard)`.
template <typename Token = detail::default_token>
auto
async_acquire_lease(const detail::executor_argument &executor, PGconn *connection, key key,
					const lease_options &options = {}, Token &&token = Token())
{
	lease wanted(detail::new_lease(std::move(key), options));

	return detail::start_lease_guard<async_lease_guard>(
		std::make_shared<detail::async_held_lease>(executor, connection, std::move(wanted),
												   options),
		options, std::forward<Token>(token));
}

#if defined(POSTGRES_LOCK_HAS_CO_AWAIT)
namespace detail
{
/// What run_body() needs to know of a lease. `Renewal` renews it as long as the body runs.
template <typename Renewal> class lease_holder
{
  public:
	lease_holder(std::shared_ptr<async_held_lease> held, Renewal &renewal) noexcept
		: held_(std::move(held)), renewal_(renewal)
	{
	}

	/// Throws if the connection can't be used any more.
	[[nodiscard]] bool
	must_roll_back() const
	{
		return held_->held.rolls_back(false);
	}

	void
	stop_watching()
	{
		renewal_.stop();
	}

	[[nodiscard]] bool
	is_over() const noexcept
	{
		return held_->held.get().expired();
	}

	[[nodiscard]] std::exception_ptr
	loss() const
	{
		return std::make_exception_ptr(lease_lost("lease \"" + held_->held.get().key().text() +
												  "\" was not renewed in time, or is lost"));
	}

	template <typename Token>
	auto
	start_restitution(bool after_error, Token &&token, asio::cancellation_type asked)
	{
		return start_lease_restitution(held_, after_error, std::forward<Token>(token), asked);
	}

	/// Whoever has heard of the loss knows it. Otherwise the end of the guard tries again, and
	/// tells.
	void
	restitution_failed(const std::exception &, bool is_lost) const noexcept
	{
		if (is_lost)
			held_->held.released();
	}

  private:
	std::shared_ptr<async_held_lease> held_;
	Renewal &renewal_;
};

/// On the executor of the body.
class own_renewal
{
  public:
	own_renewal(const asio::any_io_executor &executor, PGconn *connection, const lease &held,
				const std::function<void()> &on_loss)
		: renewal_(std::make_shared<background_renewal>(*connection, held, on_loss))
	{
		renewal_->start(executor);
	}

	void
	stop()
	{
		renewal_->stop();
	}

  private:
	std::shared_ptr<background_renewal> renewal_;
};

#if defined(__cpp_lib_jthread)
/// By a keeper, whose threads tell the executor.
class keeper_renewal
{
  public:
	keeper_renewal(keeper &keeper, const asio::any_io_executor &executor, const lease &held,
				   const std::function<void()> &on_loss)
		: kept_(keeper.keep(held)), on_stop_(std::in_place, kept_->stop_token(),
											 [executor, on_loss] { asio::post(executor, on_loss); })
	{
	}

	void
	stop() noexcept
	{
		on_stop_.reset();
		kept_.reset();
	}

  private:
	std::optional<kept> kept_;
	std::optional<std::stop_callback<std::function<void()>>> on_stop_;
};
#endif

/// The coroutine of with_lease(), which begins later, so that it keeps the holder's name. What
/// `start` makes renews the lease.
template <typename Start, typename Body>
body_awaitable<async_lease_guard, Body>
run_with_lease(PGconn *connection, key key, lease_options options,
			   // cppcheck-suppress passedByValue ; it has to live on
			   std::string holder, Start start, Body body)
{
	auto executor = co_await asio::this_coro::executor;

	options.holder = holder;

	auto held =
		std::make_shared<async_held_lease>(executor, connection,
										   lease(new_lease(std::move(key), options)), options);
	async_lease_guard guard =
		co_await start_lease_guard<async_lease_guard>(held, options,
													  use_body_awaitable<async_lease_guard, Body>);
	auto by = std::make_shared<body_cancellation>();
	auto on_loss = [by, weak = std::weak_ptr(held)] {
		// what the body has given back itself is not lost
		if (auto alive = weak.lock(); alive && alive->held.is_held())
			by->lose();
	};
	auto renewal = start(executor, held->held.get(), on_loss);
	lease_holder watched(std::move(held), renewal);
	bool throws = co_await asio::this_coro::throw_if_cancelled();

	co_await asio::this_coro::throw_if_cancelled(false);
	co_return co_await run_body(watched, by, guard, body, throws);
}
} // namespace detail

/// Runs the coroutine that `body` makes while a lease is held, on the executor of the coroutine
/// that awaits this. Meanwhile it renews the lease as a `keeper` does, but on that executor and
/// over a connection of its own, which it makes with the parameters of the one that is given (and
/// which may wait in the thread for the resolution of names, unless there is a `hostaddr`).
///
/// Before the lease can be lost, the body is cancelled: when a renewal is refused, or a tenth of
/// the ttl before `lease::deadline()`. Once it has ended, `lease_lost` is thrown. When the body
/// ends, gives the lease back; when it throws, or has left a failed transaction, first rolls back
/// the one that is open (see `lease_options::rollback_on_error`). Cancelling it cancels the wait
/// for the lease, or the body. The body must not leave a command under way on the connection.
///
/// `co_await pglock::with_lease(connection, "key", {.ttl = 15s}, [&]() -> asio::awaitable<void> {
/// ... });`
///
/// The body may take an `async_lease_guard &`, for its token and to check it in the transactions
/// that write.
template <typename Body>
detail::body_awaitable<async_lease_guard, Body>
with_lease(PGconn *connection, key key, const lease_options &options, Body body)
{
	return detail::run_with_lease(
		connection, std::move(key), options, std::string(options.holder),
		[connection](const asio::any_io_executor &executor, const lease &held,
					 const std::function<void()> &on_loss) {
			return detail::own_renewal(executor, connection, held, on_loss);
		},
		std::move(body));
}

#if defined(__cpp_lib_jthread)
/// The same, but the keeper renews the lease: in its own threads, so that the executor may be held
/// up meanwhile, and over one connection for all its leases.
template <typename Body>
detail::body_awaitable<async_lease_guard, Body>
with_lease(PGconn *connection, keeper &keeper, key key, const lease_options &options, Body body)
{
	return detail::run_with_lease(
		connection, std::move(key), options, std::string(options.holder),
		[&keeper](const asio::any_io_executor &executor, const lease &held,
				  const std::function<void()> &on_loss) {
			return detail::keeper_renewal(keeper, executor, held, on_loss);
		},
		std::move(body));
}
#endif
#endif
} // namespace pglock
