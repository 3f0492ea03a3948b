// lease.hpp: leases, which belong to a token instead of a session. Any connection renews, checks
// and releases them, also one behind a pooler that shares sessions.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "boot_clock.hpp"
#include "connection.hpp"
#include "detail/guarded.hpp"
#include "detail/hold.hpp"
#include "detail/refusal.hpp"
#include "detail/request.hpp"
#include "error.hpp"
#include "key.hpp"
#include "options.hpp"

namespace pglock
{
/// How a lease is taken, for designated initializers: `{.ttl = 15s, .holder = "node a"}`.
struct lease_options
{
	/// How long it lasts unless it is renewed: from 1 ms to 1 year.
	std::chrono::milliseconds ttl = std::chrono::seconds(30);

	/// How long to wait. 0 and less: not at all. Not given: for ever.
	std::optional<time_limit> timeout = std::nullopt;

	/// Whom the view `pglock.leases` shows as its holder; empty: nobody.
	std::string holder = {};

	/// So many may hold a lease of the key at a time.
	int slots = 1;

	/// For a guard: see `options::rollback_on_error`.
	bool rollback_on_error = true;

	/// See `options::statements`.
	pglock::statements statements = pglock::statements::automatic;

	/// How much longer than the timeout to wait for the server's answer, and how long for that to a
	/// renewal or release; then the connection is shut down, and `connection_lost` is thrown.
	time_limit grace = std::chrono::seconds(5);
};

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
		: state_(std::make_shared<state>(std::move(key), token, options))
	{
	}

	/// Takes a lease, and waits as long as the options say. Nothing: the timeout passed. In a
	/// transaction block it never was if that is rolled back.
	[[nodiscard]] static std::optional<lease>
	acquire(connection_ref connection, pglock::key key, const lease_options &options = {})
	{
		lease taken(std::move(key), 0, options);
		clock::time_point sent = clock::now();
		reply token = taken.ask_for(connection, options);

		if (!token)
			return std::nullopt;
		taken.state_->token = detail::hold::number_of(token);
		// there may be no memory for another one
		taken.state_->token_text = std::move(*token);
		taken.mark_held_since(sent);
		if (clock::now() - sent > taken.ttl() / 10)
			taken.make_up_for_wait(connection);
		return taken;
	}

	/// From now on it lasts for its `ttl`. True also if it has expired and nobody has taken it
	/// over. False: it is not held any more. Takes effect at once, whatever becomes of a
	/// transaction.
	[[nodiscard]] bool
	renew(connection_ref connection)
	{
		return renew(connection, state_->grace);
	}

	/// The same, but waits that long for the answer.
	[[nodiscard]] bool
	renew(connection_ref connection, time_limit grace)
	{
		std::string lasting = detail::interval_text(ttl());
		clock::time_point sent = clock::now();

		if (ask(connection, detail::answer_limit({}, grace), detail::renew_lease_statement,
				lasting.c_str()) != "t")
		{
			mark_lost();
			return false;
		}
		mark_held_since(sent);
		return true;
	}

	/// In the transaction that writes what the lease protects, before it does: until that ends
	/// nobody can take the lease over, even if it expires. Throws `lease_lost` if it is not held
	/// any more.
	void
	check(connection_ref connection)
	{
		try
		{
			// for as long as a takeover takes, for which nobody can say a time
			(void)ask(connection, {}, detail::check_lease_statement);
		}
		catch (const error &failure)
		{
			if (failure.sqlstate() != "55000")
				throw;
			mark_lost();
			throw lease_lost(failure.what(), failure.sqlstate());
		}
	}

	/// Does the server know it as held, and not expired? Sends nothing else; it may be over when
	/// the answer is there.
	[[nodiscard]] bool
	held(connection_ref connection) const
	{
		return ask(connection, answer_limit(), detail::holds_lease_statement) == "t";
	}

	/// Gives it back: when the transaction is committed, if one is open. False: it is not held any
	/// more.
	bool
	release(connection_ref connection)
	{
		bool released = ask(connection, answer_limit(), detail::release_lease_statement) == "t";

		mark_lost();
		return released;
	}

	/// The token, which is also a fencing token: greater than that of every earlier holder.
	[[nodiscard]] std::int64_t
	token() const noexcept
	{
		return state_->token;
	}

	[[nodiscard]] const pglock::key &
	key() const noexcept
	{
		return state_->key;
	}

	[[nodiscard]] std::chrono::milliseconds
	ttl() const noexcept
	{
		return state_->ttl;
	}

	/// Until when nobody else has it for sure: its `ttl` from before the request was sent that took
	/// or last renewed it. Work outside the database has to stop before. Once the lease is known
	/// not to be held any more, that is long ago, and stays so.
	[[nodiscard]] clock::time_point
	deadline() const noexcept
	{
		return clock::time_point(clock::duration(state_->deadline.load()));
	}

	/// Has that time passed?
	[[nodiscard]] bool
	expired() const noexcept
	{
		return clock::now() >= deadline();
	}

  private:
	struct state
	{
		// cppcheck-suppress passedByValue ; it does not see the move
		state(pglock::key of, std::int64_t number, const lease_options &options)
			: key(std::move(of)), token(number), token_text(std::to_string(number)),
			  ttl(options.ttl), statements(options.statements), grace(options.grace)
		{
		}

		pglock::key key;
		std::int64_t token;
		std::string token_text;
		std::chrono::milliseconds ttl;
		pglock::statements statements;
		time_limit grace;
		std::atomic<clock::rep> deadline = unknown;
	};

	/// Times that have passed: of a lease that nobody has asked for yet, and of one that is lost.
	static constexpr clock::rep unknown = 0;
	static constexpr clock::rep lost = -1;

	[[nodiscard]] const char *
	token_text() const noexcept
	{
		return state_->token_text.c_str();
	}

	/// The answer may be older than what another thread has heard meanwhile.
	void
	mark_held_since(clock::time_point sent) noexcept
	{
		clock::rep next = (sent + ttl()).time_since_epoch().count();
		clock::rep known = state_->deadline;

		while (known != lost && known < next &&
			   !state_->deadline.compare_exchange_weak(known, next))
			;
	}

	void
	mark_lost() noexcept
	{
		state_->deadline = lost;
	}

	/// What the wait for the lease has taken is missing from its deadline. Without an answer it
	/// stays so: the lease is held, and somebody has to know of it.
	void
	make_up_for_wait(connection_ref connection) noexcept
	{
		try
		{
			(void)renew(connection);
		}
		catch (const std::exception &)
		{
		}
	}

	/// Asks for a lease. Nothing: the timeout has passed.
	[[nodiscard]] reply
	ask_for(connection_ref connection, const lease_options &options) const
	{
		std::string lasting = detail::interval_text(ttl());
		std::string waiting = options.timeout ? detail::interval_text(*options.timeout) : "";
		std::string slots = std::to_string(options.slots);
		// outside a transaction block CALL waits without a snapshot, but lets the server log an
		// error if the lease is not to be had
		bool calls =
			connection.status() == transaction_status::idle && !detail::is_no_wait(options.timeout);
		detail::request asked = {calls ? detail::lease_statement : detail::acquire_lease_statement,
								 {key().text().c_str(), lasting.c_str(),
								  options.timeout ? waiting.c_str() : nullptr,
								  options.holder.empty() ? nullptr : options.holder.c_str(),
								  slots.c_str()}};

		try
		{
			return run(connection, asked,
					   options.timeout ? answer_limit(*options.timeout) : pglock::deadline());
		}
		catch (const error &failure)
		{
			if (!detail::is_own_timeout(asked, failure))
				throw;
			return {};
		}
	}

	/// By when to have an answer that takes that long.
	[[nodiscard]] pglock::deadline
	answer_limit(time_limit time = std::chrono::milliseconds::zero()) const
	{
		return detail::answer_limit(time, state_->grace);
	}

	/// Asks of this lease: key, token and what else there is.
	template <typename... More>
	[[nodiscard]] reply
	ask(connection_ref connection, const pglock::deadline &until, const detail::statement &what,
		More... more) const
	{
		return run(connection, {what, {key().text().c_str(), token_text(), more...}}, until);
	}

	[[nodiscard]] reply
	run(connection_ref connection, const detail::request &asked,
		const pglock::deadline &until) const
	{
		std::shared_ptr<detail::session> session = connection.session();

		detail::check_session(*session, key());
		if (connection.status() == transaction_status::busy)
			detail::throw_busy(key());
		return detail::run(connection, *session, state_->statements, asked, until);
	}

	std::shared_ptr<state> state_;
};

namespace detail
{
/// A lease that is released at its end, over one connection.
class held_lease
{
  public:
	/// Takes it, or throws.
	held_lease(connection_ref connection, key key, const lease_options &options)
		: connection_(std::move(connection)), session_(connection_.session()),
		  lease_(take(connection_, std::move(key), options)),
		  rollback_on_error_(options.rollback_on_error), grace_(options.grace)
	{
	}

	[[nodiscard]] lease &
	get() noexcept
	{
		return lease_;
	}

	/// Throws if it can't be used any more.
	[[nodiscard]] const connection_ref &
	connection()
	{
		// a lease does not end with its session
		while (session_->next)
			session_ = session_->next;
		check_session(*session_, lease_.key());
		return connection_;
	}

	void
	release()
	{
		if (is_released_)
			return;
		(void)lease_.release(connection());
		is_released_ = true;
	}

	/// What fails goes to the handler. The lease ends by itself then. In another process it is only
	/// forgotten.
	void
	end(bool by_error) noexcept
	{
		if (is_released_ || !session_->is_ours())
			return;
		try
		{
			if (rollback_on_error_ && is_to_be_rolled_back(by_error))
				connection_.rollback(answer_limit({}, grace_));
			release();
		}
		catch (const std::exception &failure)
		{
			report_release_failure(lease_.key(), failure);
		}
	}

  private:
	[[nodiscard]] static lease
	take(const connection_ref &connection, key key, const lease_options &options)
	{
		std::string name = key.text();
		std::optional<lease> taken = lease::acquire(connection, std::move(key), options);

		if (!taken)
			throw timeout_error("could not acquire lease \"" + name + "\" in time", "55P03");
		return std::move(*taken);
	}

	/// A transaction that has failed stands in the way of any release.
	[[nodiscard]] bool
	is_to_be_rolled_back(bool by_error)
	{
		transaction_status status = connection().status();

		return status == transaction_status::failed ||
			   (by_error && status == transaction_status::open);
	}

	connection_ref connection_;
	std::shared_ptr<session> session_;
	lease lease_;
	bool rollback_on_error_;
	time_limit grace_;
	bool is_released_ = false;
};
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
		: held_(
			  std::make_unique<detail::held_lease>(std::move(connection), std::move(key), options))
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
