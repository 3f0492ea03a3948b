// request.hpp: what is asked of the server for a lock, and what its answer means.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "../connection.hpp"
#include "../error.hpp"
#include "../key.hpp"
#include "../options.hpp"
#include "session.hpp"
#include "statements.hpp"

namespace pglock::detail
{
using milliseconds = std::chrono::milliseconds;

/// How long to wait. Nothing: for ever.
using wait_time = std::optional<time_limit>;

[[nodiscard]] inline bool
is_no_wait(const wait_time &time) noexcept
{
	return time && milliseconds(*time) == milliseconds::zero();
}

/// A duration as SQL has it. With its unit: a bare number would be seconds.
[[nodiscard]] inline std::string
interval_text(milliseconds time)
{
	return std::to_string(time.count()) + " ms";
}

/// By when the server has to answer what may take that long.
[[nodiscard]] inline deadline
answer_limit(milliseconds time, milliseconds grace) noexcept
{
	return std::chrono::steady_clock::now() + time + grace;
}

/// What the server has answered with a number; 0: none.
[[nodiscard]] inline std::int64_t
number_of(std::string_view text) noexcept
{
	std::int64_t number = 0;

	std::from_chars(text.data(), text.data() + text.size(), number);
	return number;
}

/// An array of text as SQL has it.
[[nodiscard]] inline std::string
array_text(const std::vector<key> &keys)
{
	std::string text = "{";

	for (const key &each : keys)
	{
		text += text.size() > 1 ? ",\"" : "\"";
		for (char character : each.text())
		{
			if (character == '"' || character == '\\')
				text += '\\';
			text += character;
		}
		text += '"';
	}
	return text += '}';
}

/// A statement with its parameters, which belong to somebody else.
class request
{
  public:
	request(const statement &what, std::initializer_list<const char *> values = {}) noexcept
		: what_(&what), count_(values.size())
	{
		std::copy(values.begin(), values.end(), values_.begin());
	}

	[[nodiscard]] const statement &
	what() const noexcept
	{
		return *what_;
	}

	[[nodiscard]] parameters
	values() const noexcept
	{
		return parameters(values_).first(count_);
	}

  private:
	const statement *what_;
	std::array<const char *, 5> values_{};
	std::size_t count_;
};

/// What gives one level of a lock back.
[[nodiscard]] inline request
release_of(const char *key, bool shared) noexcept
{
	return {shared ? release_shared_statement : release_statement, {key}};
}

[[nodiscard]] inline request
release_of(const owed_release &owed) noexcept
{
	if (!owed.slot.empty())
		return {release_slot_statement, {owed.key.c_str(), owed.slot.c_str()}};
	return release_of(owed.key.c_str(), owed.shared);
}

/// Sends a request, and waits for its answer.
[[nodiscard]] inline reply
run(connection_ref connection, session &session, statements how, const request &asked,
	const deadline &until)
{
	return run(connection, session, how, asked.what(), asked.values(), until);
}

/// Releases what ended objects could not. It does not matter if that is not held any more.
inline void
settle(connection_ref connection, session &session, statements how, const deadline &until)
{
	for (; !session.owed.empty(); session.owed.pop_front())
		(void)run(connection, session, how, release_of(session.owed.front()), until);
}

/// Does the answer to a request for a lock say that it is held? CALL answers nothing.
[[nodiscard]] inline bool
is_granted(const request &asked, const reply &answer) noexcept
{
	return answer == "t" || &asked.what() == &lock_statement ||
		   &asked.what() == &lock_in_time_statement;
}

/// Is this the error of CALL pglock.lock() and its kind after the timeout that it was given? The
/// session's lock_timeout has the same SQLSTATE, and PostgreSQL's words, which never name the lock.
[[nodiscard]] inline bool
is_own_timeout(std::string_view sqlstate, std::string_view message) noexcept
{
	return sqlstate == "55P03" &&
		   message.substr(0, message.find('\n')).find("could not acquire ") !=
			   std::string_view::npos;
}

[[nodiscard]] inline bool
is_own_timeout(const request &asked, const error &failure) noexcept
{
	return (&asked.what() == &lock_in_time_statement || &asked.what() == &slot_statement ||
			&asked.what() == &lease_statement) &&
		   is_own_timeout(failure.sqlstate(), failure.what());
}
} // namespace pglock::detail
