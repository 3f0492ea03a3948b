/*
 * key.cpp: names to lock ids.
 *
 * Lock id = SHA-1 of the name's UTF-8 bytes, read as one unsigned big-endian number, written in
 * decimal, first 18 digits. The Python library postgres-lock maps names the same way, so programs
 * of both kinds exclude each other.
 */
#include "key.hpp"

/* OpenSSL would rather have its EVP interface used: see sha1() */
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

#include <bit>
#include <cstring>

namespace pglock
{
namespace
{
constexpr int sha1_bytes = SHA_DIGEST_LENGTH;

/*
 * OpenSSL's EVP interface takes longer to get ready than to hash a short name, even with an
 * algorithm that was fetched before; the plain functions hash twice as many names.
 */
void
sha1(std::string_view bytes, unsigned char (&digest)[sha1_bytes])
{
	SHA_CTX context;

	if (SHA1_Init(&context) != 1 || SHA1_Update(&context, bytes.data(), bytes.size()) != 1 ||
		SHA1_Final(digest, &context) != 1)
		ereport(ERROR, (errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
						errmsg("could not compute the SHA-1 hash of the name of a lock")));
}

template <typename T>
T
read_big_endian(const unsigned char *bytes)
{
	T value;

	memcpy(&value, bytes, sizeof(value));
	if constexpr (std::endian::native == std::endian::little)
		value = sizeof(T) == 8 ? __builtin_bswap64(value) : __builtin_bswap32(value);
	return value;
}

/* Divides a number of three limbs, the highest first, and returns the remainder. */
uint64
divide(uint64 (&limbs)[3], uint64 divisor)
{
	uint64 remainder = 0;

	for (uint64 &limb : limbs)
	{
		unsigned __int128 part = static_cast<unsigned __int128>(remainder) << 64 | limb;

		limb = static_cast<uint64>(part / divisor);
		remainder = static_cast<uint64>(part) - limb * divisor; /* cheaper than % */
	}
	return remainder;
}

/*
 * The first 18 decimal digits of a 160-bit number, or all of them if it has fewer.
 *
 * Dividing by 10^18 twice leaves the number in three groups of 18 digits, the highest with at
 * most 13 of them as 2^160 has 49; the answer straddles the two highest groups that are not zero.
 */
int64
first_18_digits(const unsigned char (&number)[sha1_bytes])
{
	constexpr uint64 group = 1'000'000'000'000'000'000;
	uint64 limbs[3] = {read_big_endian<uint32>(number), read_big_endian<uint64>(number + 4),
					   read_big_endian<uint64>(number + 12)};
	uint64 low = divide(limbs, group);
	uint64 high = divide(limbs, group);
	uint64 highest = limbs[2];
	uint64 scale = 10; /* 10 to the number of digits in the highest group that is not zero */

	if (highest == 0)
	{
		highest = high;
		high = low;
	}
	if (highest == 0)
		return static_cast<int64>(high);
	while (scale <= highest)
		scale *= 10;
	return static_cast<int64>(highest * (group / scale) + high / scale);
}

/*
 * The bytes to hash. Names are hashed in UTF-8 so that one name is one lock whatever encoding a
 * database has; SQL_ASCII has no encoding to convert from, its bytes are taken as they are.
 */
std::string_view
utf8_bytes(std::string_view name)
{
	int encoding = GetDatabaseEncoding();

	if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII || name.empty())
		return name;

	auto source = const_cast<char *>(name.data());
	auto converted = reinterpret_cast<const char *>(
		pg_do_encoding_conversion(reinterpret_cast<unsigned char *>(source),
								  static_cast<int>(name.size()), encoding, PG_UTF8));

	/* the conversion returns its argument, not zero-terminated, if there is nothing to do */
	return converted == source ? name : std::string_view(converted);
}
} // namespace

lock_key
key_of_name(std::string_view name)
{
	/* The name hashed last: what is taken is often given back next. */
	static struct
	{
		char bytes[64];
		size_t length = SIZE_MAX;
		int64 lock_id;
	} last;

	if (name.size() == last.length && memcmp(name.data(), last.bytes, last.length) == 0)
		return {last.lock_id, name};

	unsigned char digest[sha1_bytes];

	sha1(utf8_bytes(name), digest);
	lock_key key = {first_18_digits(digest), name};

	if (name.size() <= sizeof(last.bytes))
	{
		memcpy(last.bytes, name.data(), name.size());
		last.length = name.size();
		last.lock_id = key.lock_id;
	}
	return key;
}

lock_key
key_of_id(int64 lock_id)
{
	return {lock_id, {}};
}

char *
shown_name(std::string_view name, MemoryContext context)
{
	bool whole = name.size() <= shown_name_bytes;
	size_t length =
		whole ? name.size()
			  : static_cast<size_t>(
					pg_mbcliplen(name.data(), static_cast<int>(name.size()), shown_name_bytes));
	auto shown = static_cast<char *>(MemoryContextAlloc(context, length + sizeof("...")));

	memcpy(shown, name.data(), length);
	strcpy(shown + length, whole ? "" : "...");
	return shown;
}

const char *
describe(const lock_key &key)
{
	if (key.name.data() == nullptr)
		return psprintf("id " INT64_FORMAT, key.lock_id);
	return psprintf("\"%s\"", shown_name(key.name, CurrentMemoryContext));
}
} // namespace pglock
