// keys.hpp: the keys that a function is given.
#pragma once

#include <algorithm>
#include <concepts>
#include <ranges>
#include <stdexcept>
#include <utility>
#include <vector>

#include "../key.hpp"

namespace pglock::detail
{
/// Keys, one or several: in braces, or in a range of what converts to keys. Braces make one of them
/// without an array, which GCC before 13 can't have in a co_await expression.
class keys_argument
{
  public:
	template <std::convertible_to<key>... Keys>
	requires(sizeof...(Keys) > 0) keys_argument(Keys &&...keys)
	{
		keys_.reserve(sizeof...(keys));
		(keys_.emplace_back(std::forward<Keys>(keys)), ...);
	}

	// cppcheck-suppress passedByValue ; it does not see the move
	keys_argument(std::vector<key> keys) noexcept : keys_(std::move(keys))
	{
	}

	/// A text is a range, too, but one key.
	template <std::ranges::input_range Range>
	requires(!std::convertible_to<Range, key> &&
			 std::convertible_to<std::ranges::range_reference_t<Range>, key>)
		keys_argument(Range &&keys)
	{
		for (auto &&each : keys)
			keys_.emplace_back(std::forward<decltype(each)>(each));
	}

	operator std::vector<key>() &&noexcept
	{
		return std::move(keys_);
	}

  private:
	std::vector<key> keys_;
};

/// The keys that are meant: each once, in their order as text. Throws `std::invalid_argument` if
/// there is none.
[[nodiscard]] inline std::vector<key>
in_order(std::vector<key> keys)
{
	if (keys.empty())
		throw std::invalid_argument("there is no key");
	if (keys.size() > 1)
	{
		std::sort(keys.begin(), keys.end());
		keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
	}
	return keys;
}
} // namespace pglock::detail
