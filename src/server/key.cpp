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

#include <cstring>

namespace pglock
{
namespace
{
/* A SHA-1 hash as one number: its five words, the highest first. */
struct sha1_hash
{
	uint32 words[5];
};

uint64
join(uint32 high, uint32 low)
{
	return static_cast<uint64>(high) << 32 | low;
}

uint32
read_big_endian(const unsigned char *bytes)
{
	return static_cast<uint32>(bytes[0] << 24 | bytes[1] << 16 | bytes[2] << 8 | bytes[3]);
}

/*
 * OpenSSL's EVP interface takes longer to get ready than to hash a short name, even with an
 * algorithm that was fetched before; the plain functions hash twice as many names. Most names fit
 * into one block of SHA-1 with its padding (FIPS 180-4, 5.1.1), which spares copies and wiping.
 */
sha1_hash
sha1(std::string_view bytes)
{
	SHA_CTX context;
	bool done = SHA1_Init(&context) == 1;

	if (bytes.size() <= SHA_CBLOCK - 1 - sizeof(uint64))
	{
		unsigned char block[SHA_CBLOCK] = {};

		memcpy(block, bytes.data(), bytes.size());
		block[bytes.size()] = 0x80;
		block[SHA_CBLOCK - 2] = static_cast<unsigned char>(8 * bytes.size() >> 8);
		block[SHA_CBLOCK - 1] = static_cast<unsigned char>(8 * bytes.size());
		SHA1_Transform(&context, block);
		if (done)
			return {{context.h0, context.h1, context.h2, context.h3, context.h4}};
	}

	unsigned char digest[SHA_DIGEST_LENGTH];

	done = done && SHA1_Update(&context, bytes.data(), bytes.size()) == 1 &&
		   SHA1_Final(digest, &context) == 1;
	if (!done)
		ereport(ERROR, (errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
						errmsg("could not compute the SHA-1 hash of the name of a lock")));
	return {{read_big_endian(digest), read_big_endian(digest + 4), read_big_endian(digest + 8),
			 read_big_endian(digest + 12), read_big_endian(digest + 16)}};
}

/*
 * Divides a number of two limbs, with the higher less than the divisor, and makes the higher the
 * remainder and the lower the quotient.
 */
void
divide(uint64 &high, uint64 &low, uint64 divisor)
{
	unsigned __int128 dividend = static_cast<unsigned __int128>(high) << 64 | low;

	low = static_cast<uint64>(dividend / divisor);
	high = static_cast<uint64>(dividend) - low * divisor; /* cheaper than % */
}

constexpr uint64 powers_of_ten[] = {
	1,
	10,
	100,
	1'000,
	10'000,
	100'000,
	1'000'000,
	10'000'000,
	100'000'000,
	1'000'000'000,
	10'000'000'000,
	100'000'000'000,
	1'000'000'000'000,
	10'000'000'000'000,
	100'000'000'000'000,
	1'000'000'000'000'000,
	10'000'000'000'000'000,
	100'000'000'000'000'000,
	1'000'000'000'000'000'000,
};

/* How many decimal digits a number above 0 and below 10^18 has. */
int
count_digits(uint64 number)
{
	/* 1233 / 4096 is just above the logarithm of 2 to the base of 10 */
	int at_most = (pg_leftmost_one_pos64(number) + 1) * 1233 / 4096;

	return at_most + (number >= powers_of_ten[at_most]);
}

/*
 * The first 18 decimal digits of a number of 160 bits, or all of them if it has fewer.
 *
 * Dividing by 10^18 twice leaves the number in three groups of 18 digits, the highest with at
 * most 13 of them as 2^160 has 49; the answer straddles the two highest groups that are not zero.
 */
int64
first_18_digits(const sha1_hash &number)
{
	constexpr uint64 group = powers_of_ten[18];
	/* limbs at first, each less than 10^18 when it is divided; the three groups in the end */
	uint64 low = number.words[0];
	uint64 middle = join(number.words[1], number.words[2]);
	uint64 highest = join(number.words[3], number.words[4]);

	divide(low, middle, group);
	divide(low, highest, group);
	divide(middle, highest, group);
	if (highest == 0)
	{
		highest = middle;
		middle = low;
	}
	if (highest == 0)
		return static_cast<int64>(middle);

	int digits = count_digits(highest);

	return static_cast<int64>(highest * powers_of_ten[18 - digits] +
							  middle / powers_of_ten[digits]);
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
		return {{last.lock_id, no_slot}, name};

	lock_key key = {{first_18_digits(sha1(utf8_bytes(name))), no_slot}, name};

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
	return {{lock_id, no_slot}, {}};
}

int
show_name(std::string_view name, shown_name_buffer &shown)
{
	bool whole = name.size() <= shown_name_bytes;
	auto length = static_cast<int>(name.size());
	int encoding = GetDatabaseEncoding();

	/* what has no encoding mostly is UTF-8, where clients can't read half a character */
	if (encoding == PG_SQL_ASCII)
		encoding = PG_UTF8;
	if (!whole)
		length = pg_encoding_mbcliplen(encoding, name.data(), length, shown_name_bytes);
	memcpy(shown, name.data(), static_cast<size_t>(length));
	strcpy(shown + length, whole ? "" : "...");
	return whole ? length : length + static_cast<int>(strlen("..."));
}

const char *
shown_name(std::string_view name)
{
	shown_name_buffer shown;

	show_name(name, shown);
	return pstrdup(shown);
}

const char *
describe(const lock_key &key)
{
	if (key.name.data() == nullptr)
		return psprintf("id " INT64_FORMAT, key.lock_id);
	return psprintf("\"%s\"", shown_name(key.name));
}

const char *
describe_in_full(const lock_key &key)
{
	if (key.slot == no_slot)
		return psprintf("lock %s", describe(key));
	if (key.slot == any_slot)
		return psprintf("a slot of %s", describe(key));
	return psprintf("slot %d of %s", key.slot, describe(key));
}
} // namespace pglock
