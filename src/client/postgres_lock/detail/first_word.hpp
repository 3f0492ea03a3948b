// first_word.hpp: what kind of statement is this?
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

namespace pglock::detail
{
/// The text behind its first comment, which may have others in it. Nothing if it does not end.
[[nodiscard]] inline std::string_view
behind_comment(std::string_view text) noexcept
{
	if (text.starts_with("--"))
	{
		std::size_t end = text.find_first_of("\r\n");

		return end == std::string_view::npos ? std::string_view() : text.substr(end);
	}

	int depth = 0;

	do
	{
		if (text.starts_with("/*"))
		{
			depth++;
			text.remove_prefix(2);
		}
		else if (text.starts_with("*/"))
		{
			depth--;
			text.remove_prefix(2);
		}
		else if (!text.empty())
			text.remove_prefix(1);
	} while (depth > 0 && !text.empty());
	return text;
}

/// The first word of an SQL statement, in capitals, as PostgreSQL finds it: behind white space,
/// comments and empty statements. Empty if the statement begins with something else.
[[nodiscard]] inline std::string
first_word(std::string_view text)
{
	auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
	auto is_inside = [&](char c) {
		return is_letter(c) || (c >= '0' && c <= '9') || c == '_' || c == '$' ||
			   static_cast<unsigned char>(c) >= 0x80;
	};
	std::string word;

	for (;;)
	{
		text.remove_prefix(std::min(text.find_first_not_of(" \t\n\r\f\v;"), text.size()));
		if (!text.starts_with("--") && !text.starts_with("/*"))
			break;
		text = behind_comment(text);
	}
	if (text.empty() || !is_letter(text.front()))
		return word;
	for (; !text.empty() && is_inside(text.front()); text.remove_prefix(1))
		word += static_cast<char>(
			text.front() >= 'a' && text.front() <= 'z' ? text.front() - 'a' + 'A' : text.front());
	return word;
}
} // namespace pglock::detail
