/*
 * lease_functions.cpp: the functions for leases, the procedure and the view that SQL sees.
 */
#include "arguments.hpp"
#include "compat.hpp"
#include "context.hpp"
#include "deadline.hpp"
#include "lease_acquire.hpp"
#include "lease_expiry.hpp"
#include "lease_locks.hpp"
#include "lease_sweep.hpp"
#include "leases.hpp"
#include "registry.hpp"
#include "row_builder.hpp"
#include "visibility.hpp"

namespace pglock
{
namespace
{
/* What writes is not for standbys and read-only transactions; `function` is for the message. */
void
check_may_write(const char *function)
{
	context::check_no_parallel_worker();
	PreventCommandDuringRecovery(function);
	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
}

int64
ttl_argument(FunctionCallInfo fcinfo, int argument)
{
	constexpr int64 shortest = 1000;
	constexpr int64 longest = 366 * USECS_PER_DAY;

	check_not_null(fcinfo, argument, "ttl");

	const Interval *ttl = PG_GETARG_INTERVAL_P(argument);
	__int128 microseconds = microseconds_of(ttl);

	if (compat::interval_infinity(ttl) != 0 || microseconds < shortest || microseconds > longest)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("invalid ttl: \"%s\"",
							   DatumGetCString(
								   DirectFunctionCall1(interval_out, PG_GETARG_DATUM(argument)))),
						errdetail("The ttl must be between 1 ms and 1 year.")));
	return static_cast<int64>(microseconds);
}

/* NULL: the one that the lease has. */
int64
optional_ttl_argument(FunctionCallInfo fcinfo, int argument)
{
	return PG_ARGISNULL(argument) ? leases::same_ttl : ttl_argument(fcinfo, argument);
}

/* NULL: whom the session takes its locks for, if it says so. */
const text *
holder_argument(FunctionCallInfo fcinfo, int argument)
{
	shown_name_buffer shown;

	if (PG_ARGISNULL(argument))
		return registry::own_holder();

	int length = show_name(text_bytes(PG_GETARG_DATUM(argument)), shown);

	return cstring_to_text_with_len(shown, length);
}

int64
token_argument(FunctionCallInfo fcinfo)
{
	check_not_null(fcinfo, 1, "token");
	return PG_GETARG_INT64(1);
}

/* NULL: the lease was not to be had. */
Datum
token_or_null(FunctionCallInfo fcinfo, int64 token)
{
	fcinfo->isnull = token == 0;
	if (token != 0)
		lease_sweep::at_commit();
	return Int64GetDatum(token);
}

/* (key, ttl, timeout, holder, slots) */
leases::wanted
wanted_arguments(FunctionCallInfo fcinfo)
{
	return {ttl_argument(fcinfo, 1), deadline_argument(fcinfo, 2), holder_argument(fcinfo, 3),
			slots_argument(fcinfo, 4)};
}

/* (key, ttl, holder, slots) */
leases::wanted
wanted_at_once_arguments(FunctionCallInfo fcinfo)
{
	return {ttl_argument(fcinfo, 1), deadline::at_once, holder_argument(fcinfo, 2),
			slots_argument(fcinfo, 3)};
}

Datum
acquire_lease(FunctionCallInfo fcinfo, const lock_key &key)
{
	check_may_write("pglock.acquire_lease()");
	return token_or_null(fcinfo, leases::acquire(key, wanted_arguments(fcinfo)));
}

Datum
try_lease(FunctionCallInfo fcinfo, const lock_key &key)
{
	check_may_write("pglock.try_lease()");
	return token_or_null(fcinfo, leases::acquire(key, wanted_at_once_arguments(fcinfo)));
}

Datum
call_lease(FunctionCallInfo fcinfo, const lock_key &key)
{
	check_may_write("pglock.lease()");

	int64 token = leases::acquire_or_raise(key, wanted_arguments(fcinfo), fcinfo);

	lease_sweep::at_commit();
	return inout_row(fcinfo, Int64GetDatum(token));
}

bool
renew_lease(FunctionCallInfo fcinfo, const lock_key &key)
{
	check_may_write("pglock.renew_lease()");
	return leases::renew(key, token_argument(fcinfo), optional_ttl_argument(fcinfo, 2));
}

Datum
renew_leases(FunctionCallInfo fcinfo)
{
	Datum *tokens;
	bool *nulls;
	int count;

	check_may_write("pglock.renew_leases()");
	check_not_null(fcinfo, 0, "tokens");
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), INT8OID, sizeof(int64), FLOAT8PASSBYVAL,
					  TYPALIGN_DOUBLE, &tokens, &nulls, &count);

	int64 ttl = optional_ttl_argument(fcinfo, 1);
	leases::renewals renewing;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (nulls[i])
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
							errmsg("tokens must not contain nulls")));
		if (!renewing.renew(DatumGetInt64(tokens[i]), ttl))
			continue;

		row_builder<1> columns;

		columns.add(tokens[i]);
		columns.put(fcinfo);
	}
	renewing.make_durable();
	return 0;
}

bool
release_lease(FunctionCallInfo fcinfo, const lock_key &key)
{
	check_may_write("pglock.release_lease()");
	return leases::release(key, token_argument(fcinfo));
}

Datum
check_lease(FunctionCallInfo fcinfo, const lock_key &key)
{
	context::check_no_parallel_worker();
	PreventCommandDuringRecovery("pglock.check_lease()");
	leases::check(key, token_argument(fcinfo));
	PG_RETURN_VOID();
}

bool
holds_lease(FunctionCallInfo fcinfo, const lock_key &key)
{
	PreventCommandDuringRecovery("pglock.holds_lease()");
	return leases::holds(key, token_argument(fcinfo));
}

int32
revoke_lease(const lock_key &key)
{
	check_may_write("pglock.revoke_lease()");
	return leases::revoke(key);
}

/* A lease as a row of the view. */
void
put_lease(FunctionCallInfo fcinfo, const shown_lease &lease, int64 end)
{
	row_builder<10> columns;
	bool visible = may_see(lease.row.role);
	TimestampTz expires_at = GetCurrentTimestamp() + (end - steady_clock::now());
	auto ttl = static_cast<Interval *>(palloc0(sizeof(Interval)));

	ttl->time = lease.row.time_to_live();
	columns.add_text(visible ? lease.key : cstring_to_text(hidden));
	columns.add(Int32GetDatum(lease.row.slot));
	columns.add(Int64GetDatum(lease.row.token));
	columns.add_text(visible ? lease.holder : nullptr);
	columns.add(ObjectIdGetDatum(lease.row.role));
	columns.add_time(lease.row.acquired_at);
	columns.add_time(lease.row.renewed_at);
	columns.add_time(expires_at);
	columns.add(IntervalPGetDatum(ttl));
	columns.add(Int32GetDatum(manager::parties(lease_locks::gate(lease.row.key_id).tag)));
	columns.put(fcinfo);
}

Datum
lease_status(FunctionCallInfo fcinfo)
{
	PreventCommandDuringRecovery("pglock.leases");
	InitMaterializedSRF(fcinfo, 0);

	lease_rows rows;
	lease_clock::run run = lease_clock::current_run();

	rows.for_each([&](const shown_lease &lease) {
		if (int64 end = lease_expiry::end_of(lease.row, run); end > steady_clock::now())
			put_lease(fcinfo, lease, end);
	});
	rows.close();
	return 0;
}

/* Stands in for the query of the materialized view, which must never be filled by one. */
Datum
lease_columns()
{
	ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("\"pglock.lease_rows\" cannot be refreshed"),
					errdetail("Only the functions for leases write to it."),
					errhint("The view pglock.leases shows the leases.")));
}
} // namespace
} // namespace pglock

using namespace pglock;

PGLOCK_KEY_FUNCTIONS(acquire_lease, acquire_lease(fcinfo, key))
PGLOCK_KEY_FUNCTIONS(try_lease, try_lease(fcinfo, key))
PGLOCK_KEY_FUNCTIONS(lease, call_lease(fcinfo, key))
PGLOCK_KEY_FUNCTIONS(renew_lease, BoolGetDatum(renew_lease(fcinfo, key)))
PGLOCK_KEY_FUNCTIONS(release_lease, BoolGetDatum(release_lease(fcinfo, key)))
PGLOCK_KEY_FUNCTIONS(check_lease, check_lease(fcinfo, key))
PGLOCK_KEY_FUNCTIONS(holds_lease, BoolGetDatum(holds_lease(fcinfo, key)))
PGLOCK_KEY_FUNCTIONS(revoke_lease, Int32GetDatum(revoke_lease(key)))

PGLOCK_FUNCTION(renew_leases, renew_leases(fcinfo))
PGLOCK_FUNCTION(lease_status, lease_status(fcinfo))
PGLOCK_FUNCTION(lease_columns, lease_columns())
