// lease_state.hpp: what is known of a lease.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include "../boot_clock.hpp"
#include "../error.hpp"
#include "../key.hpp"
#include "../options.hpp"
#include "request.hpp"
#include "statements.hpp"

namespace pglock::detail
{
/// Shared by all handles of the lease, in any threads. The token is set once, before there is a
/// second handle.
class lease_state
{
  public:
	using clock = boot_clock;

	// cppcheck-suppress passedByValue ; it does not see the move
	lease_state(pglock::key of, std::int64_t token, const lease_options &options)
		: key_(std::move(of)), token_(token), token_text_(std::to_string(token)), ttl_(options.ttl),
		  ttl_text_(interval_text(options.ttl)), statements_(options.statements),
		  grace_(options.grace)
	{
		token_text_.reserve(std::numeric_limits<std::int64_t>::digits10 + 2);
	}

	/// The server's answer. Takes no memory, of which there may be none.
	void
	granted(std::string_view token)
	{
		token_text_ = token;
		token_ = number_of(token);
	}

	/// The answer may be older than what another thread has heard meanwhile.
	void
	mark_held_since(clock::time_point sent) noexcept
	{
		clock::rep next = (sent + ttl_).time_since_epoch().count();
		clock::rep known = deadline_;

		while (known != lost && known < next && !deadline_.compare_exchange_weak(known, next))
			;
	}

	void
	mark_lost() noexcept
	{
		deadline_ = lost;
	}

	/// A request for the lease: key, token and what else there is. Valid as long as this.
	template <typename... More>
	[[nodiscard]] request
	request_of(const statement &what, More... more) const noexcept
	{
		return {what, {key_.text().c_str(), token_text_.c_str(), more...}};
	}

	[[nodiscard]] request
	renewal() const noexcept
	{
		return request_of(renew_lease_statement, ttl_text());
	}

	[[nodiscard]] request
	release() const noexcept
	{
		return request_of(release_lease_statement);
	}

	[[nodiscard]] request
	check() const noexcept
	{
		return request_of(check_lease_statement);
	}

	/// Throws on what the server says to a check, as `lease_lost` if the lease is not held.
	[[noreturn]] void
	throw_check_failure(std::string_view sqlstate, const std::string &message)
	{
		if (sqlstate != "55000")
			throw_error(sqlstate, message);
		mark_lost();
		throw lease_lost(message, sqlstate);
	}

	[[nodiscard]] const pglock::key &
	key() const noexcept
	{
		return key_;
	}

	[[nodiscard]] std::int64_t
	token() const noexcept
	{
		return token_;
	}

	[[nodiscard]] std::chrono::milliseconds
	ttl() const noexcept
	{
		return ttl_;
	}

	[[nodiscard]] const char *
	ttl_text() const noexcept
	{
		return ttl_text_.c_str();
	}

	[[nodiscard]] clock::time_point
	deadline() const noexcept
	{
		return clock::time_point(clock::duration(deadline_.load()));
	}

	[[nodiscard]] pglock::statements
	statements() const noexcept
	{
		return statements_;
	}

	[[nodiscard]] time_limit
	grace() const noexcept
	{
		return grace_;
	}

  private:
	/// Times that have passed: of a lease that nobody has asked for yet, and of one that is lost.
	static constexpr clock::rep unknown = 0;
	static constexpr clock::rep lost = -1;

	pglock::key key_;
	std::int64_t token_;
	std::string token_text_;
	std::chrono::milliseconds ttl_;
	std::string ttl_text_;
	pglock::statements statements_;
	time_limit grace_;
	std::atomic<clock::rep> deadline_ = unknown;
};
} // namespace pglock::detail
