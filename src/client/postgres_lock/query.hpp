// query.hpp: what a critical section is to run, and what is answered.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <concepts>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "detail/first_word.hpp"
#include "detail/pipeline.hpp"
#include "key.hpp"

namespace pglock
{
/// The value of a parameter: text in PostgreSQL's format, a number, or a `bool`. `std::nullopt`, an
/// empty `std::optional` and what is made from nothing are NULL. Throws `std::invalid_argument` for
/// a null `char` pointer.
class parameter
{
  public:
	parameter() = default;

	parameter(std::nullopt_t) noexcept
	{
	}

	// cppcheck-suppress passedByValue ; it does not see the move
	parameter(std::string text) noexcept : text_(std::move(text))
	{
	}

	parameter(std::string_view text) : text_(text)
	{
	}

	parameter(const char *text) : text_(detail::not_null(text, "a parameter must not be null"))
	{
	}

	parameter(std::same_as<bool> auto value) : text_(value ? "t" : "f")
	{
	}

	template <detail::number T> parameter(T number) : text_(std::to_string(number))
	{
	}

	/// As many digits as it takes to be the same number again.
	template <std::floating_point T> parameter(T number)
	{
		std::array<char, 64> digits;
		auto [end, error] = std::to_chars(digits.data(), digits.data() + digits.size(), number);

		text_.emplace(digits.data(), end);
	}

	template <std::convertible_to<parameter> T> parameter(const std::optional<T> &value)
	{
		if (value)
			*this = parameter(*value);
	}

	/// Null for NULL.
	[[nodiscard]] const char *
	text() const noexcept
	{
		return text_ ? text_->c_str() : nullptr;
	}

	/// For the library itself.
	[[nodiscard]] const std::optional<std::string> &
	value() const noexcept
	{
		return text_;
	}

  private:
	std::optional<std::string> text_;
};

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
		: query(std::string(detail::not_null(text, "a statement must not be null")),
				std::move(values))
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
			values.push_back(each.text());
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
			if (each.value())
				check(*each.value());
	}

	static void
	check(const std::string &text)
	{
		if (text.find('\0') != std::string::npos)
			throw std::invalid_argument("a statement must not contain a zero byte");
	}

	std::string text_;
	std::vector<parameter> values_;
	bool is_prepared_;
};

/// What a statement answered: rows for `PQgetvalue(result.get(), row, column)`, a count for
/// `PQcmdTuples(result.get())`.
using result = detail::result_ptr;
} // namespace pglock
