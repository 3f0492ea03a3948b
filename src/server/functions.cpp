/*
 * functions.cpp: the functions and procedures that SQL sees.
 *
 * They check and decode their arguments, call one function, and return. None is STRICT but lock_id:
 * a NULL answer to a NULL argument would look like an answer.
 */
#include "acquire.hpp"
#include "compat.hpp"
#include "contention.hpp"
#include "context.hpp"
#include "deadline.hpp"
#include "key.hpp"
#include "lock.hpp"
#include "registry.hpp"
#include "shared.hpp"
#include "standby.hpp"
#include "token.hpp"
#include "version.hpp"
#include "views.hpp"

namespace pglock
{
namespace
{
void
check_not_null(FunctionCallInfo fcinfo, int argument, const char *name)
{
	if (PG_ARGISNULL(argument))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("%s must not be null", name)));
}

std::string_view
text_bytes(Datum value)
{
	const text *packed = DatumGetTextPP(value);

	return {VARDATA_ANY(packed), VARSIZE_ANY_EXHDR(packed)};
}

/* The key in argument 0, by its type: a number or uuid means its text. */

lock_key
text_key(FunctionCallInfo fcinfo)
{
	check_not_null(fcinfo, 0, "key");
	return key_of_name(text_bytes(PG_GETARG_DATUM(0)));
}

lock_key
bigint_key(FunctionCallInfo fcinfo)
{
	check_not_null(fcinfo, 0, "key");
	auto digits = static_cast<char *>(palloc(MAXINT8LEN + 1));

	return key_of_name({digits, static_cast<size_t>(pg_lltoa(PG_GETARG_INT64(0), digits))});
}

lock_key
uuid_key(FunctionCallInfo fcinfo)
{
	check_not_null(fcinfo, 0, "key");
	return key_of_name(DatumGetCString(DirectFunctionCall1(uuid_out, PG_GETARG_DATUM(0))));
}

lock_key
raw_key(FunctionCallInfo fcinfo)
{
	check_not_null(fcinfo, 0, "lock_id");
	return key_of_id(PG_GETARG_INT64(0));
}

/* The keys in argument 0, an array of text. */
std::span<lock_key>
text_keys(FunctionCallInfo fcinfo)
{
	Datum *names;
	bool *nulls;
	int count;

	check_not_null(fcinfo, 0, "keys");
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT, &names, &nulls,
					  &count);

	auto keys = static_cast<lock_key *>(palloc(sizeof(lock_key) * static_cast<size_t>(count)));

	for (int i = 0; i < count; i++)
	{
		if (nulls[i])
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
							errmsg("keys must not contain nulls")));
		keys[i] = key_of_name(text_bytes(names[i]));
	}
	return {keys, static_cast<size_t>(count)};
}

mode
mode_argument(FunctionCallInfo fcinfo, int argument)
{
	check_not_null(fcinfo, argument, "shared");
	return PG_GETARG_BOOL(argument) ? mode::shared : mode::exclusive;
}

scope
scope_argument(FunctionCallInfo fcinfo, int argument)
{
	check_not_null(fcinfo, argument, "scope");
	std::string_view name = text_bytes(PG_GETARG_DATUM(argument));

	if (name == "session")
		return scope::session;
	if (name == "transaction")
		return scope::transaction;
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("invalid scope: \"%s\"", shown_name(name)),
					errdetail("A scope is \"session\" or \"transaction\".")));
}

/* The timeout in an argument, as the time at which waiting ends. NULL waits for ever. */
TimestampTz
deadline_argument(FunctionCallInfo fcinfo, int argument)
{
	constexpr int64 longest = INT64CONST(2147483647) * 1000;

	if (PG_ARGISNULL(argument))
		return deadline::never;

	const Interval *timeout = PG_GETARG_INTERVAL_P(argument);
	int infinity = compat::interval_infinity(timeout);

	if (infinity > 0)
		return deadline::never;

	/* months of 30 days and days of 24 hours, as when intervals are compared */
	__int128 days = static_cast<__int128>(timeout->month) * DAYS_PER_MONTH + timeout->day;
	__int128 microseconds = days * USECS_PER_DAY + timeout->time;

	if (infinity < 0 || microseconds < 0 || microseconds > longest)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid timeout: \"%s\"",
						DatumGetCString(
							DirectFunctionCall1(interval_out, PG_GETARG_DATUM(argument)))),
				 errdetail("The timeout must be between 0, which does not wait, and 2147483647 ms. "
						   "NULL waits for ever.")));
	if (microseconds == 0)
		return deadline::at_once;
	return GetCurrentTimestamp() + static_cast<int64>(microseconds);
}

std::optional<mode>
optional_mode_argument(FunctionCallInfo fcinfo, int argument)
{
	if (PG_ARGISNULL(argument))
		return std::nullopt;
	return mode_argument(fcinfo, argument);
}

/* (key, timeout, shared, scope); the procedures of version 1.0 have no scope */
request
request_arguments(FunctionCallInfo fcinfo)
{
	return {mode_argument(fcinfo, 2), PG_NARGS() > 3 ? scope_argument(fcinfo, 3) : scope::session,
			deadline_argument(fcinfo, 1)};
}

/* (key, shared, scope) */
request
request_at_once_arguments(FunctionCallInfo fcinfo)
{
	return {mode_argument(fcinfo, 1), scope_argument(fcinfo, 2), deadline::at_once};
}

/* Raises 25006 on a standby, whose answer would hold for its own sessions only. */
void
check_may_answer(const char *verb, const lock_key &key)
{
	if (standby::is_off_limits())
		standby::refuse(psprintf("%s lock %s", verb, describe(key)));
}

bool
is_held(const lock_key &key)
{
	context::check_no_parallel_worker();
	return manager::holds({key.lock_id, mode::exclusive}) ||
		   manager::holds({key.lock_id, mode::shared});
}

bool
held(const lock_key &key)
{
	bool answer = is_held(key);

	if (!answer)
		check_may_answer("look up", key);
	return answer;
}

bool
is_free(const lock_key &key)
{
	check_may_answer("look up", key);
	return !manager::is_wanted(key.lock_id);
}

Datum
holders(FunctionCallInfo fcinfo, const lock_key &key)
{
	check_may_answer("look up", key);
	return return_holders(fcinfo, key);
}

/* What a session has taken, it may release anywhere. */
bool
release_held(const lock_key &key, std::optional<mode> only)
{
	if (!is_held(key))
		check_may_answer("release", key);
	return release(key, only);
}

Datum
reset_contention()
{
	contention::reset();
	PG_RETURN_VOID();
}

/* NULL where the registry is off. */
Datum
registry_size(FunctionCallInfo fcinfo)
{
	if (!shared::is_on())
		PG_RETURN_NULL();
	return Int64GetDatum(static_cast<int64>(registry::size()));
}

Datum
call_lock(FunctionCallInfo fcinfo, const lock_key &key)
{
	lock_or_raise(key, request_arguments(fcinfo), fcinfo);
	PG_RETURN_VOID();
}
} // namespace
} // namespace pglock

using namespace pglock;

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
#define PGLOCK_KEY_AND_RAW_FUNCTIONS(name, result)                                                 \
	PGLOCK_KEY_FUNCTIONS(name, result)                                                             \
	PGLOCK_KEY_FUNCTION(name##_raw, raw_key, result)

PGLOCK_KEY_AND_RAW_FUNCTIONS(acquire, BoolGetDatum(acquire(key, request_arguments(fcinfo))))
PGLOCK_KEY_AND_RAW_FUNCTIONS(try, BoolGetDatum(acquire(key, request_at_once_arguments(fcinfo))))
PGLOCK_KEY_AND_RAW_FUNCTIONS(lock, call_lock(fcinfo, key))
PGLOCK_KEY_AND_RAW_FUNCTIONS(release,
							 BoolGetDatum(release_held(key, optional_mode_argument(fcinfo, 1))))
PGLOCK_KEY_FUNCTIONS(held, BoolGetDatum(held(key)))
PGLOCK_KEY_FUNCTIONS(is_free, BoolGetDatum(is_free(key)))
PGLOCK_KEY_FUNCTIONS(holders, holders(fcinfo, key))
PGLOCK_KEY_FUNCTIONS(token, Int64GetDatum(token(key)))
PGLOCK_KEY_FUNCTIONS(lock_id, Int64GetDatum(key.lock_id))

PGLOCK_FUNCTION(acquire_all,
				BoolGetDatum(acquire_all(text_keys(fcinfo), request_arguments(fcinfo))))
PGLOCK_FUNCTION(release_all, Int32GetDatum(static_cast<int32>(release_all())))
PGLOCK_FUNCTION(release_all_keys, Int32GetDatum(static_cast<int32>(release_all(text_keys(fcinfo)))))
PGLOCK_FUNCTION(session_holds, return_session_holds(fcinfo))
PGLOCK_FUNCTION(lock_status, return_lock_status(fcinfo))
PGLOCK_FUNCTION(contention_status, return_contention(fcinfo))
PGLOCK_FUNCTION(contention_info, return_contention_info(fcinfo))
PGLOCK_FUNCTION(contention_reset, reset_contention())
PGLOCK_FUNCTION(registry_size, registry_size(fcinfo))
