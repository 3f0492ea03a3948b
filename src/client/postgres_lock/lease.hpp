// lease.hpp: leases, which belong to a token instead of a session. Any connection renews, checks
// and releases them, also one behind a pooler that shares sessions.
#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>

#include "boot_clock.hpp"
#include "connection.hpp"
#include "detail/drive.hpp"
#include "detail/guarded.hpp"
#include "detail/lease_protocol.hpp"
#include "detail/lease_state.hpp"
#include "detail/refusal.hpp"
#include "detail/request.hpp"
#include "detail/session_link.hpp"
#include "error.hpp"
#include "key.hpp"
#include "options.hpp"

namespace pglock
{
namespace detail
{
/// Can a request to stop end the wait for a lease?
[[nodiscard]] inline bool
may_be_stopped([[maybe_unused]] const connection_ref &connection,
			   [[maybe_unused]] const lease_options &options)
{
#if defined(__cpp_lib_jthread)
	if (options.stop.stop_possible())
	{
		if (!connection.has_control())
			throw std::invalid_argument("a wait on this connection can't be stopped");
		return !is_no_wait(options.timeout);
	}
#endif
	return false;
}

/// Takes the lease, and waits as long as the options say. False: the timeout passed. Once it is
/// held nothing fails: somebody has to know of it.
[[nodiscard]] inline bool
take(const std::shared_ptr<lease_state> &wanted, const session_link &over,
	 const lease_options &options)
{
	bool stops = may_be_stopped(over.connection, options);
	lease_acquisition taking(wanted, over, options, stops);

	try
	{
#if defined(__cpp_lib_jthread)
		if (stops)
			drive_unless_stopped(over.connection, *over.session, options.statements, taking,
								 options.stop, options.grace, [&] { return taking.until(); });
		else
#endif
			drive(over.connection, *over.session, options.statements, taking);
	}
	catch (...)
	{
		if (taking.result() != wait_outcome::taken)
			throw;
	}
	if (taking.result() == wait_outcome::cancelled)
		throw stopped_error(taking.description() +
							" is not waited for any more: stop was requested");
	return taking.result() == wait_outcome::taken;
}
} // namespace detail

/// A lease that was taken. A handle: copies are the same lease. It is not released when it ends, as
/// a `lease_guard` is; unless somebody renews it, it expires.
///
/// Each function that asks the server does so over the connection it is given, whichever that is.
/// What is not said below it throws as `error`: 42501 if another role took the lease,
/// `connection_lost`, and so on. May be used from any thread at any time, over connections that
/// belong to it.
class lease
{
  public:
	using clock = boot_clock;

	/// A lease that somebody has taken, by its token: its `deadline()` has passed until it is
	/// renewed, which gives it the `ttl` of these options.
	lease(pglock::key key, std::int64_t token, const lease_options &options = {})
		: lease(std::make_shared<detail::lease_state>(std::move(key), token, options))
	{
	}

	/// For the library itself.
	explicit lease(std::shared_ptr<detail::lease_state> state) noexcept : state_(std::move(state))
	{
	}

	/// Takes a lease, and waits as long as the options say. Nothing: the timeout passed. In a
	/// transaction block it never was if that is rolled back.
	[[nodiscard]] static std::optional<lease>
	acquire(connection_ref connection, pglock::key key, const lease_options &options = {})
	{
		lease wanted(std::move(key), 0, options);

		if (!detail::take(wanted.state_, detail::session_link(std::move(connection)), options))
			return std::nullopt;
		return wanted;
	}

	/// From now on it lasts for its `ttl`. True also if it has expired and nobody has taken it
	/// over. False: it is not held any more. Takes effect at once, whatever becomes of a
	/// transaction.
	[[nodiscard]] bool
	renew(connection_ref connection)
	{
		return renew(connection, state_->grace());
	}

	/// The same, but waits that long for the answer.
	[[nodiscard]] bool
	renew(connection_ref connection, time_limit grace)
	{
		return ask<detail::lease_renewal>(connection, grace);
	}

	/// In the transaction that writes what the lease protects, before it does: until that ends
	/// nobody can take the lease over, even if it expires. Throws `lease_lost` if it is not held
	/// any more.
	void
	check(connection_ref connection)
	{
		(void)ask<detail::lease_check>(connection);
	}

	/// Does the server know it as held, and not expired? Sends nothing else; it may be over when
	/// the answer is there.
	[[nodiscard]] bool
	held(connection_ref connection) const
	{
		return ask<detail::lease_inquiry>(connection, state_->grace());
	}

	/// Gives it back: when the transaction is committed, if one is open. False: it is not held any
	/// more.
	bool
	release(connection_ref connection)
	{
		return ask<detail::lease_release>(connection, state_->grace());
	}

	/// The token, which is also a fencing token: greater than that of every earlier holder.
	[[nodiscard]] std::int64_t
	token() const noexcept
	{
		return state_->token();
	}

	[[nodiscard]] const pglock::key &
	key() const noexcept
	{
		// cppcheck-suppress returnTempReference ; it takes that for a constructor
		return state_->key();
	}

	[[nodiscard]] std::chrono::milliseconds
	ttl() const noexcept
	{
		return state_->ttl();
	}

	/// Until when nobody else has it for sure: its `ttl` from before the request was sent that took
	/// or last renewed it. Work outside the database has to stop before. Once the lease is known
	/// not to be held any more, that is long ago, and stays so.
	[[nodiscard]] clock::time_point
	deadline() const noexcept
	{
		return state_->deadline();
	}

	/// Has that time passed?
	[[nodiscard]] bool
	expired() const noexcept
	{
		return clock::now() >= deadline();
	}

	/// For the library itself.
	[[nodiscard]] const std::shared_ptr<detail::lease_state> &
	state() const noexcept
	{
		return state_;
	}

  private:
	template <typename Machine, typename... Limit>
	bool
	ask(connection_ref connection, Limit... limit) const
	{
		detail::session_link over(connection);
		Machine asking(state_, over, limit...);

		detail::drive(connection, *over.session, state_->statements(), asking);
		return asking.result();
	}

	std::shared_ptr<detail::lease_state> state_;
};

namespace detail
{
/// A lease that is released at its end, once it has been granted, over one connection.
class held_lease
{
  public:
	held_lease(lease held, session_link over, const lease_options &options)
		: lease_(std::move(held)), over_(std::move(over)),
		  rollback_on_error_(options.rollback_on_error)
	{
	}

	[[nodiscard]] lease &
	get() noexcept
	{
		return lease_;
	}

	[[nodiscard]] const lease &
	get() const noexcept
	{
		return lease_;
	}

	/// Throws if the connection can't be used any more. A lease does not end with its session.
	[[nodiscard]] const session_link &
	over()
	{
		over_.follow();
		check_session(*over_.session, lease_.key());
		return over_;
	}

	[[nodiscard]] const connection_ref &
	connection()
	{
		return over().connection;
	}

	[[nodiscard]] bool
	is_held() const noexcept
	{
		return is_held_;
	}

	void
	granted() noexcept
	{
		is_held_ = true;
	}

	void
	released() noexcept
	{
		is_held_ = false;
	}

	void
	release()
	{
		if (!is_held_)
			return;
		(void)lease_.release(connection());
		released();
	}

	/// Is the transaction to be rolled back before the release? One that has failed stands in the
	/// way of any.
	[[nodiscard]] bool
	rolls_back(bool by_error)
	{
		if (!rollback_on_error_)
			return false;

		transaction_status status = connection().status();

		return status == transaction_status::failed ||
			   (by_error && status == transaction_status::open);
	}

	/// What fails goes to the handler. The lease ends by itself then. In another process it is only
	/// forgotten.
	void
	end(bool by_error) noexcept
	{
		if (!is_held_ || !over_.session->is_ours())
			return;
		try
		{
			if (rolls_back(by_error))
				connection().rollback(answer_limit({}, lease_.state()->grace()));
			release();
		}
		catch (const std::exception &failure)
		{
			report_release_failure(lease_.key(), failure);
		}
	}

  private:
	lease lease_;
	session_link over_;
	bool rollback_on_error_;
	bool is_held_ = false;
};

[[noreturn]] inline void
throw_lease_timeout(const key &key)
{
	throw timeout_error("could not acquire lease \"" + key.text() + "\" in time", "55P03");
}

/// Takes a lease for a guard, or throws.
[[nodiscard]] inline std::unique_ptr<held_lease>
hold_lease(const connection_ref &connection, key key, const lease_options &options)
{
	session_link over(connection);
	auto held = std::make_unique<held_lease>(lease(std::move(key), 0, options), over, options);

	if (!take(held->get().state(), over, options))
		throw_lease_timeout(held->get().key());
	held->granted();
	return held;
}
} // namespace detail

/// Holds a lease as long as it lives, if that is renewed: by `renew()`, or by a `keeper`. It moves,
/// and does not copy. Its end is that of a `guard`: if an exception ends it, it first rolls back
/// the transaction that is open on the connection, and then gives the lease back.
class [[nodiscard]] lease_guard
{
  public:
	/// Takes a lease, and waits as long as the options say. Throws `timeout_error` if the time
	/// passes.
	[[nodiscard]] lease_guard(connection_ref connection, key key, const lease_options &options = {})
		: held_(detail::hold_lease(connection, std::move(key), options))
	{
	}

	/// The lease, for a `keeper`, or to be used over another connection.
	[[nodiscard]] pglock::lease
	lease() const
	{
		return held().get();
	}

	/// See `lease::renew()`.
	[[nodiscard]] bool
	renew()
	{
		return held().get().renew(held().connection());
	}

	/// See `lease::check()`.
	void
	check()
	{
		held().get().check(held().connection());
	}

	/// Gives the lease back before the end. Harmless if it is not held any more. If it throws, the
	/// end tries again.
	void
	release()
	{
		held().release();
	}

	/// See `lease::token()`.
	[[nodiscard]] std::int64_t
	token() const
	{
		return held().get().token();
	}

	/// See `lease::expired()`.
	[[nodiscard]] bool
	expired() const
	{
		return held().get().expired();
	}

  private:
	[[nodiscard]] detail::held_lease &
	held() const
	{
		if (!held_.get())
			throw std::logic_error("the guard has been moved from");
		return *held_.get();
	}

	detail::guarded<std::unique_ptr<detail::held_lease>> held_;
};
} // namespace pglock
