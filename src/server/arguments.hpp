/*
 * arguments.hpp: what the functions that SQL sees are given, and how they are declared.
 *
 * A key is text, or a bigint or uuid, which mean their text; each such function has an entry point
 * for each.
 */
#pragma once

#include "key.hpp"
#include "version.hpp"

#include <span>

namespace pglock
{
/* Raises 22004 if the argument, which callers know by that name, is NULL. */
void check_not_null(FunctionCallInfo fcinfo, int argument, const char *name);

/* The bytes of a text, which live as long as the caller's memory context. */
std::string_view text_bytes(Datum value);

/* The key in argument 0, by its type. */
lock_key text_key(FunctionCallInfo fcinfo);
lock_key bigint_key(FunctionCallInfo fcinfo);
lock_key uuid_key(FunctionCallInfo fcinfo);
lock_key raw_key(FunctionCallInfo fcinfo);

/* The keys in argument 0, an array of text. */
std::span<lock_key> text_keys(FunctionCallInfo fcinfo);

/* The microseconds of an interval, with months of 30 days and days of 24 hours. */
__int128 microseconds_of(const Interval *interval);

/* How many slots a key has. Raises 22004 and 22023. */
int32 slots_argument(FunctionCallInfo fcinfo, int argument);

/* What a procedure returns: a row of its one INOUT parameter. */
Datum inout_row(FunctionCallInfo fcinfo, Datum value);

/* The timeout in an argument, as the time at which waiting ends. NULL waits for ever. */
TimestampTz deadline_argument(FunctionCallInfo fcinfo, int argument);
} // namespace pglock

#define PGLOCK_FUNCTION(name, result)                                                              \
	extern "C"                                                                                     \
	{                                                                                              \
	PG_FUNCTION_INFO_V1(pglock_##name);                                                            \
	Datum pglock_##name([[maybe_unused]] PG_FUNCTION_ARGS)                                         \
	{                                                                                              \
		version::check();                                                                          \
		return result;                                                                             \
	}                                                                                              \
	}

/* One function for each type of key; `result` uses `key`. */
#define PGLOCK_KEY_FUNCTION(name, key_argument, result)                                            \
	extern "C"                                                                                     \
	{                                                                                              \
	PG_FUNCTION_INFO_V1(pglock_##name);                                                            \
	Datum pglock_##name(PG_FUNCTION_ARGS)                                                          \
	{                                                                                              \
		version::check();                                                                          \
		lock_key key = key_argument(fcinfo);                                                       \
                                                                                                   \
		return result;                                                                             \
	}                                                                                              \
	}
#define PGLOCK_KEY_FUNCTIONS(name, result)                                                         \
	PGLOCK_KEY_FUNCTION(name##_text, text_key, result)                                             \
	PGLOCK_KEY_FUNCTION(name##_bigint, bigint_key, result)                                         \
	PGLOCK_KEY_FUNCTION(name##_uuid, uuid_key, result)
