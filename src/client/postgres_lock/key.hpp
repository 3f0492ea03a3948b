// key.hpp: the names of locks.
#pragma once

#include <concepts>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace pglock
{
namespace detail
{
/// Integers that are numbers: a `bool` or a character is none.
template <typename T>
concept number = std::integral<T> && !std::same_as<T, bool> && !std::same_as<T, char> &&
				 !std::same_as<T, wchar_t> && !std::same_as<T, char8_t> &&
				 !std::same_as<T, char16_t> && !std::same_as<T, char32_t>;

[[nodiscard]] inline const char *
not_null(const char *text, const char *otherwise)
{
	if (text == nullptr)
		throw std::invalid_argument(otherwise);
	return text;
}
} // namespace detail

/// The name of a lock: text in the client encoding of the connection, of any length, also empty.
///
/// Converts from strings and from integers. A number means its text, so 42 and "42" are one lock,
/// as in SQL. Throws `std::invalid_argument` for a null `char` pointer, and for text with a zero
/// byte in it, which PostgreSQL can't have.
class key
{
  public:
	key(std::string text) : text_(std::move(text))
	{
		if (text_.find('\0') != std::string::npos)
			throw std::invalid_argument("a lock's key must not contain a zero byte");
	}

	key(std::string_view text) : key(std::string(text))
	{
	}

	key(const char *text)
		: key(std::string(detail::not_null(text, "a lock's key must not be null")))
	{
	}

	template <detail::number T> key(T number) : text_(std::to_string(number))
	{
	}

	key(std::nullptr_t) = delete;
	key(std::same_as<bool> auto) = delete;

	/// The name, as it is sent to the server.
	[[nodiscard]] const std::string &
	text() const noexcept
	{
		return text_;
	}

	friend bool operator==(const key &, const key &) = default;
	friend auto operator<=>(const key &, const key &) = default;

  private:
	std::string text_;
};
} // namespace pglock
