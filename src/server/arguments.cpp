/*
 * arguments.cpp: what the functions that SQL sees are given.
 */
#include "arguments.hpp"

#include "compat.hpp"
#include "deadline.hpp"

namespace pglock
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

__int128
microseconds_of(const Interval *interval)
{
	/* as when intervals are compared */
	__int128 days = static_cast<__int128>(interval->month) * DAYS_PER_MONTH + interval->day;

	return days * USECS_PER_DAY + interval->time;
}

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

	__int128 microseconds = microseconds_of(timeout);

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

int32
slots_argument(FunctionCallInfo fcinfo, int argument)
{
	check_not_null(fcinfo, argument, "slots");

	int32 slots = PG_GETARG_INT32(argument);

	if (slots < 1 || slots > max_slots)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("invalid number of slots: %d", slots),
						errdetail("The number of slots must be between 1 and %d.", max_slots)));
	return slots;
}

Datum
inout_row(FunctionCallInfo fcinfo, Datum value)
{
	TupleDesc columns;
	bool is_null = false;

	if (get_call_result_type(fcinfo, nullptr, &columns) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(columns), &value, &is_null));
}
} // namespace pglock
