/*
 * functions.cpp: the functions and procedures that SQL sees.
 *
 * They check and decode their arguments, call one function, and return. None is STRICT but lock_id
 * and server_of: a NULL answer to a NULL argument would look like an answer.
 */
#include "acquire.hpp"
#include "arguments.hpp"
#include "contention.hpp"
#include "context.hpp"
#include "deadline.hpp"
#include "lock.hpp"
#include "registry.hpp"
#include "shared.hpp"
#include "slots.hpp"
#include "standby.hpp"
#include "token.hpp"
#include "views.hpp"

namespace pglock
{
namespace
{
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
		standby::refuse(psprintf("%s %s", verb, describe_in_full(key)));
}

bool
is_held(const lock_key &key)
{
	context::check_no_parallel_worker();
	return manager::holds(lock{key, mode::exclusive}) || manager::holds(lock{key, mode::shared});
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
	return manager::parties(lock{key, mode::exclusive}.tag()) == 0;
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

/* (key, servers); clients compute the same */
int32
server_of(FunctionCallInfo fcinfo, const lock_key &key)
{
	int32 servers = PG_GETARG_INT32(1);

	if (servers < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("invalid servers: %d", servers),
				 errdetail("The number of servers must be between 1 and %d.", PG_INT32_MAX)));
	/* the id of a name is never negative */
	return static_cast<int32>(key.lock_id % servers);
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

/* (key, slots, timeout, scope) */
request
slot_request_arguments(FunctionCallInfo fcinfo)
{
	return {mode::exclusive, scope_argument(fcinfo, 3), deadline_argument(fcinfo, 2)};
}

/* NULL: no slot was to be had. */
Datum
slot_or_null(FunctionCallInfo fcinfo, int32 slot)
{
	fcinfo->isnull = slot == 0;
	return Int32GetDatum(slot);
}

Datum
acquire_slot(FunctionCallInfo fcinfo, const lock_key &key)
{
	int32 slots = slots_argument(fcinfo, 1);

	return slot_or_null(fcinfo, slots::acquire(key, slots, slot_request_arguments(fcinfo)));
}

/* (key, slots, scope) */
Datum
try_slot(FunctionCallInfo fcinfo, const lock_key &key)
{
	int32 slots = slots_argument(fcinfo, 1);
	request how = {mode::exclusive, scope_argument(fcinfo, 2), deadline::at_once};

	return slot_or_null(fcinfo, slots::acquire(key, slots, how));
}

/* (key, slots, timeout, scope, slot) */
Datum
call_slot(FunctionCallInfo fcinfo, const lock_key &key)
{
	int32 slots = slots_argument(fcinfo, 1);
	request how = slot_request_arguments(fcinfo);

	return inout_row(fcinfo, Int32GetDatum(slots::acquire_or_raise(key, slots, how, fcinfo)));
}

bool
release_slot(FunctionCallInfo fcinfo, const lock_key &key)
{
	check_not_null(fcinfo, 1, "slot");

	int32 slot = PG_GETARG_INT32(1);

	if (slot < 1 || slot > max_slots)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("invalid slot: %d", slot),
						errdetail("The number of a slot is between 1 and %d.", max_slots)));
	return release_held(key.with(slot), std::nullopt);
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

#define PGLOCK_KEY_AND_RAW_FUNCTIONS(name, result)                                                 \
	PGLOCK_KEY_FUNCTIONS(name, result)                                                             \
	PGLOCK_KEY_FUNCTION(name##_raw, raw_key, result)

PGLOCK_KEY_AND_RAW_FUNCTIONS(acquire, BoolGetDatum(acquire(key, request_arguments(fcinfo))))
PGLOCK_KEY_AND_RAW_FUNCTIONS(try, BoolGetDatum(acquire(key, request_at_once_arguments(fcinfo))))
PGLOCK_KEY_AND_RAW_FUNCTIONS(lock, call_lock(fcinfo, key))
PGLOCK_KEY_AND_RAW_FUNCTIONS(release,
							 BoolGetDatum(release_held(key, optional_mode_argument(fcinfo, 1))))
PGLOCK_KEY_FUNCTIONS(acquire_slot, acquire_slot(fcinfo, key))
PGLOCK_KEY_FUNCTIONS(try_slot, try_slot(fcinfo, key))
PGLOCK_KEY_FUNCTIONS(slot, call_slot(fcinfo, key))
PGLOCK_KEY_FUNCTIONS(release_slot, BoolGetDatum(release_slot(fcinfo, key)))
PGLOCK_KEY_FUNCTIONS(held, BoolGetDatum(held(key)))
PGLOCK_KEY_FUNCTIONS(is_free, BoolGetDatum(is_free(key)))
PGLOCK_KEY_FUNCTIONS(holders, holders(fcinfo, key))
PGLOCK_KEY_FUNCTIONS(token, Int64GetDatum(token(key)))
PGLOCK_KEY_FUNCTIONS(lock_id, Int64GetDatum(key.lock_id))
PGLOCK_KEY_FUNCTIONS(server_of, Int32GetDatum(server_of(fcinfo, key)))

PGLOCK_FUNCTION(acquire_all,
				BoolGetDatum(acquire_all(text_keys(fcinfo), request_arguments(fcinfo))))
PGLOCK_FUNCTION(release_all, Int32GetDatum(static_cast<int32>(release_all())))
PGLOCK_FUNCTION(release_all_keys, Int32GetDatum(static_cast<int32>(release_all(text_keys(fcinfo)))))
PGLOCK_FUNCTION(session_holds, return_session_holds(fcinfo))
PGLOCK_FUNCTION(lock_status, return_lock_status(fcinfo, false))
PGLOCK_FUNCTION(lock_status_1_1, return_lock_status(fcinfo, true))
PGLOCK_FUNCTION(contention_status, return_contention(fcinfo))
PGLOCK_FUNCTION(contention_histogram, return_contention_histogram(fcinfo))
PGLOCK_FUNCTION(contention_info, return_contention_info(fcinfo))
PGLOCK_FUNCTION(contention_reset, reset_contention())
PGLOCK_FUNCTION(registry_size, registry_size(fcinfo))
