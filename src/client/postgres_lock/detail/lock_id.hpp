// lock_id.hpp: the lock ids of keys, computed as the server does.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <openssl/sha.h>
#include <stdexcept>
#include <string_view>

namespace pglock::detail
{
/// A SHA-1 hash as one number of 160 bits, the highest 32 first.
using sha1_hash = std::array<std::uint32_t, SHA_DIGEST_LENGTH / sizeof(std::uint32_t)>;

[[nodiscard]] inline sha1_hash
sha1(std::string_view text)
{
	std::array<unsigned char, SHA_DIGEST_LENGTH> digest{};
	sha1_hash hash{};

	if (SHA1(reinterpret_cast<const unsigned char *>(text.data()), text.size(), digest.data()) ==
		nullptr)
		throw std::runtime_error("OpenSSL could not compute a SHA-1 hash");
	for (std::size_t i = 0; i < digest.size(); i++)
		hash[i / sizeof(std::uint32_t)] = hash[i / sizeof(std::uint32_t)] << 8 | digest[i];
	return hash;
}

/// The first 18 decimal digits of a number, or all of them if it has fewer. Nine digits at a time
/// are taken off its end until what is left has at most 18; then it gets back what is missing.
[[nodiscard]] constexpr std::int64_t
first_18_digits(sha1_hash number) noexcept
{
	constexpr std::uint64_t nine_digits = 1'000'000'000;
	constexpr std::uint64_t eighteen_digits = nine_digits * nine_digits;
	auto low_limbs = [&] { return std::uint64_t{number[3]} << 32 | number[4]; };
	std::uint64_t taken_off = 0;
	std::uint64_t unit = 0;

	while (number[0] != 0 || number[1] != 0 || number[2] != 0 || low_limbs() >= eighteen_digits)
	{
		taken_off = 0;
		for (std::uint32_t &limb : number)
		{
			taken_off = taken_off << 32 | limb;
			limb = static_cast<std::uint32_t>(taken_off / nine_digits);
			taken_off %= nine_digits;
		}
		unit = nine_digits / 10;
	}

	std::uint64_t digits = low_limbs();

	for (; unit > 0 && digits < eighteen_digits / 10; unit /= 10)
	{
		digits = digits * 10 + taken_off / unit;
		taken_off %= unit;
	}
	return static_cast<std::int64_t>(digits);
}

/// The lock id of a key whose text is UTF-8. Throws `std::runtime_error` if OpenSSL fails.
[[nodiscard]] inline std::int64_t
lock_id(std::string_view key)
{
	return first_18_digits(sha1(key));
}
} // namespace pglock::detail
