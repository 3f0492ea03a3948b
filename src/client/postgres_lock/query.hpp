// query.hpp: what a critical section is to run, and what is answered.
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "detail/first_word.hpp"
#include "detail/pipeline.hpp"

namespace pglock
{
/// The value of a parameter in PostgreSQL's text format. `std::nullopt` is NULL.
using parameter = std::optional<std::string>;

/// One SQL statement of a critical section, with `$1` and so on for its parameters:
/// `pglock::query{"UPDATE accounts SET balance = 0 WHERE id = $1", {"42"}}`. Text alone converts.
///
/// Throws `std::invalid_argument` for a null pointer, for zero bytes, for COPY, and for commands
/// that begin or end transactions or set savepoints (PREPARE with them): they would release the
/// lock before its time. The server refuses strings with several statements (42601), and what it
/// has to run outside transaction blocks, such as VACUUM (25001).
class query
{
  public:
	query(std::string text, std::vector<parameter> values = {})
		: query(std::move(text), std::move(values), false)
	{
		std::string word = detail::first_word(text_);

		if (std::find(refused.begin(), refused.end(), word) != refused.end())
			throw std::invalid_argument(word + " is not possible in a critical section");
	}

	query(std::string_view text, std::vector<parameter> values = {})
		: query(std::string(text), std::move(values))
	{
	}

	query(const char *text, std::vector<parameter> values = {})
		: query(std::string(not_null(text)), std::move(values))
	{
	}

	/// A statement that has been prepared on the connection, by its name. It must not be one of
	/// those that are refused otherwise: that is an error when it has been run, and so too late.
	[[nodiscard]] static query
	prepared(std::string name, std::vector<parameter> values = {})
	{
		return {std::move(name), std::move(values), true};
	}

	/// For the library itself.
	void
	send(detail::pipeline &pipeline) const
	{
		std::vector<const char *> values;

		values.reserve(values_.size());
		for (const parameter &each : values_)
			values.push_back(each ? each->c_str() : nullptr);
		if (is_prepared_)
			pipeline.send_prepared(text_.c_str(), values);
		else
			pipeline.send(text_.c_str(), values);
	}

  private:
	static constexpr std::array<std::string_view, 10> refused{"ABORT",	 "BEGIN",	 "COMMIT",
															  "COPY",	 "END",		 "PREPARE",
															  "RELEASE", "ROLLBACK", "SAVEPOINT",
															  "START"};

	query(std::string text, std::vector<parameter> values, bool is_prepared)
		: text_(std::move(text)), values_(std::move(values)), is_prepared_(is_prepared)
	{
		check(text_);
		for (const parameter &each : values_)
			if (each)
				check(*each);
	}

	static void
	check(const std::string &text)
	{
		if (text.find('\0') != std::string::npos)
			throw std::invalid_argument("a statement must not contain a zero byte");
	}

	static const char *
	not_null(const char *text)
	{
		if (text == nullptr)
			throw std::invalid_argument("a statement must not be null");
		return text;
	}

	std::string text_;
	std::vector<parameter> values_;
	bool is_prepared_;
};

/// What a statement answered: rows for `PQgetvalue(result.get(), row, column)`, a count for
/// `PQcmdTuples(result.get())`.
using result = detail::result_ptr;
} // namespace pglock
