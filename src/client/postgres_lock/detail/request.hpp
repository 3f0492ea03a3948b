// request.hpp: what is asked of the server for a lock, and what its answer means.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "../connection.hpp"
#include "../error.hpp"
#include "../key.hpp"
#include "../options.hpp"
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

/// A timeout as SQL has it. With its unit: a bare number would be seconds.
[[nodiscard]] inline std::string
interval_text(time_limit time)
{
	return std::to_string(milliseconds(time).count()) + " ms";
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
	std::array<const char *, 4> values_{};
	std::size_t count_;
};

/// Does the answer to a request for a lock say that it is held? CALL answers nothing.
[[nodiscard]] inline bool
is_granted(const request &asked, const reply &answer) noexcept
{
	return answer == "t" || &asked.what() == &lock_statement ||
		   &asked.what() == &lock_in_time_statement;
}

/// Is this the error of CALL pglock.lock() after the timeout that it was given? The session's
/// lock_timeout has the same SQLSTATE, and PostgreSQL's words, which never name the lock.
[[nodiscard]] inline bool
is_own_timeout(std::string_view sqlstate, std::string_view message) noexcept
{
	return sqlstate == "55P03" &&
		   message.substr(0, message.find('\n')).find("could not acquire lock ") !=
			   std::string_view::npos;
}

[[nodiscard]] inline bool
is_own_timeout(const request &asked, const error &failure) noexcept
{
	return &asked.what() == &lock_in_time_statement &&
		   is_own_timeout(failure.sqlstate(), failure.what());
}
} // namespace pglock::detail
