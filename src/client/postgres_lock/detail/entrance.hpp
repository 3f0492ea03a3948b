// entrance.hpp: what lets a critical section in: a lock, several, or a lease that is held still.
#pragma once

#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>
#include <version>

#if defined(__cpp_lib_jthread)
#include <stop_token>
#endif

#include "../connection.hpp"
#include "../error.hpp"
#include "../key.hpp"
#include "../options.hpp"
#include "blocking_hold.hpp"
#include "keys.hpp"
#include "lease_state.hpp"
#include "request.hpp"
#include "session.hpp"
#include "statements.hpp"

namespace pglock::detail
{
/// The request that the server has to grant before it runs the statements. One that is not granted
/// has to be an error, since that is what makes the server skip them.
class entrance
{
  public:
	/// The locks of all the keys. Throws if they or the options can't be meant.
	entrance(std::vector<key> keys, const options &options)
		: keys_(in_order(std::move(keys))), shared_(options.shared),
		  statements_(options.statements), timeout_(options.timeout), grace_(options.grace)
#if defined(__cpp_lib_jthread)
		  ,
		  stop_(options.stop)
#endif
	{
		if (options.scope == scope::session)
			throw std::invalid_argument("a critical section has transaction scope");
		if (timeout_)
			interval_ = interval_text(*timeout_);
		if (keys_.size() > 1)
			array_ = array_text(keys_);
	}

	/// A lease.
	explicit entrance(std::shared_ptr<lease_state> of)
		: keys_{of->key()}, lease_(std::move(of)), statements_(lease_->statements())
	{
	}

	/// For messages about the connection.
	[[nodiscard]] const key &
	first_key() const noexcept
	{
		return keys_.front();
	}

	[[nodiscard]] pglock::statements
	statements() const noexcept
	{
		return statements_;
	}

	/// By when the server has to answer what takes no time. For a lease there is no limit, since
	/// nobody can say how long the server waits for a takeover.
	[[nodiscard]] deadline
	limit() const
	{
		if (!timeout_)
			return {};
		return answer_limit(milliseconds::zero(), grace_);
	}

	/// The same after the wait to be let in.
	[[nodiscard]] deadline
	wait_limit() const
	{
		if (!timeout_)
			return {};
		return answer_limit(*timeout_, grace_);
	}

#if defined(__cpp_lib_jthread)
	/// Who requests stop of this, ends the wait.
	[[nodiscard]] const std::stop_token &
	stop() const noexcept
	{
		return stop_;
	}

	/// How long the server may take to end it.
	[[nodiscard]] milliseconds
	grace() const noexcept
	{
		return grace_;
	}
#endif

	/// Throws if an object on the session stands in the way.
	void
	check_conflicts(const connection_ref &connection, const session &session) const
	{
		if (lease_)
			return;
		for (const key &each : keys_)
			detail::check_conflicts(connection, session, each, shared_, limit());
	}

	[[nodiscard]] request
	asked() const noexcept
	{
		const char *limit = timeout_ ? interval_.c_str() : nullptr;
		const char *shared = shared_ ? "t" : "f";
		const char *name = first_key().text().c_str();

		if (lease_)
			return lease_->check();
		if (keys_.size() > 1)
			return {enter_all_statement, {array_.c_str(), limit, shared}};
		if (timeout_ || shared_)
			return {enter_in_time_statement, {name, limit, shared}};
		return {enter_statement, {name}};
	}

	/// For messages.
	[[nodiscard]] std::string
	description() const
	{
		std::string all = lease_ ? "lease" : keys_.size() > 1 ? "locks" : "lock";

		for (const key &each : keys_)
			all += (&each == &first_key() ? " \"" : ", \"") + each.text() + '"';
		return all;
	}

	/// The error of that request.
	[[noreturn]] void
	throw_refused(std::string_view sqlstate, const std::string &message) const
	{
		if (lease_)
			lease_->throw_check_failure(sqlstate, message);
		if (keys_.size() > 1 && sqlstate == "22P02" &&
			message.find(enter_all_refusal) != std::string::npos)
			throw timeout_error("could not acquire " + description() + " in time", "55P03");
		if (is_own_timeout(sqlstate, message))
			throw timeout_error(message, sqlstate);
		throw_error(sqlstate, message);
	}

  private:
	std::vector<key> keys_;
	/// null: locks are wanted
	std::shared_ptr<lease_state> lease_;
	bool shared_ = false;
	pglock::statements statements_;
	wait_time timeout_;
	time_limit grace_ = milliseconds::zero();
#if defined(__cpp_lib_jthread)
	std::stop_token stop_;
#endif
	std::string interval_;
	std::string array_;
};
} // namespace pglock::detail
