// lock_id.hpp: the lock ids of keys, computed as the server does.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace pglock::detail
{
/// 160 bits as one number, the highest 32 first.
using sha1_hash = std::array<std::uint32_t, 5>;

/// One block of SHA-1: FIPS 180-4, 6.1.2.
constexpr void
sha1_add(sha1_hash &hash, const std::array<unsigned char, 64> &block) noexcept
{
	std::array<std::uint32_t, 80> words{};

	for (std::size_t i = 0; i < 16; i++)
		words[i] = std::uint32_t{block[4 * i]} << 24 | std::uint32_t{block[4 * i + 1]} << 16 |
				   std::uint32_t{block[4 * i + 2]} << 8 | block[4 * i + 3];
	for (std::size_t i = 16; i < 80; i++)
		words[i] = std::rotl(words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16], 1);

	std::uint32_t a = hash[0];
	std::uint32_t b = hash[1];
	std::uint32_t c = hash[2];
	std::uint32_t d = hash[3];
	std::uint32_t e = hash[4];
	auto rounds = [&](std::size_t first, std::uint32_t constant, auto function) {
		for (std::size_t i = first; i < first + 20; i++)
		{
			std::uint32_t next = std::rotl(a, 5) + function(b, c, d) + e + constant + words[i];

			e = d;
			d = c;
			c = std::rotl(b, 30);
			b = a;
			a = next;
		}
	};
	auto choice = [](auto x, auto y, auto z) { return (x & y) ^ (~x & z); };
	auto parity = [](auto x, auto y, auto z) { return x ^ y ^ z; };
	auto majority = [](auto x, auto y, auto z) { return (x & y) ^ (x & z) ^ (y & z); };

	rounds(0, 0x5a827999, choice);
	rounds(20, 0x6ed9eba1, parity);
	rounds(40, 0x8f1bbcdc, majority);
	rounds(60, 0xca62c1d6, parity);

	hash[0] += a;
	hash[1] += b;
	hash[2] += c;
	hash[3] += d;
	hash[4] += e;
}

[[nodiscard]] constexpr sha1_hash
sha1(std::string_view text) noexcept
{
	sha1_hash hash{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
	std::array<unsigned char, 64> block{};
	std::size_t used = 0;
	auto add = [&](unsigned char byte) {
		block[used++] = byte;
		if (used == block.size())
		{
			sha1_add(hash, block);
			used = 0;
		}
	};

	for (char each : text)
		add(static_cast<unsigned char>(each));
	add(0x80);
	while (used != block.size() - sizeof(std::uint64_t))
		add(0);

	std::uint64_t bits = std::uint64_t{text.size()} * 8;

	for (int shift = 56; shift >= 0; shift -= 8)
		add(static_cast<unsigned char>(bits >> shift));
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

/// The lock id of a key whose text is UTF-8.
[[nodiscard]] constexpr std::int64_t
lock_id(std::string_view key) noexcept
{
	return first_18_digits(sha1(key));
}
} // namespace pglock::detail
