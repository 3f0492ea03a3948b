/*
 * views.cpp: what is shown of the locks.
 */
#include "views.hpp"

#include "context.hpp"
#include "holds.hpp"

#include <algorithm>
#include <span>

namespace pglock
{
Datum
return_holders(FunctionCallInfo fcinfo, const lock_key &key)
{
	LOCKTAG tag = lock{key.lock_id, mode::exclusive}.tag();
	const LockData *all = GetLockStatusData();
	auto pids = static_cast<int *>(palloc(sizeof(int) * static_cast<size_t>(all->nelements)));
	size_t count = 0;

	/* one session may hold the lock in both modes, but has one entry for them */
	for (const LockInstanceData &seen : std::span(all->locks, static_cast<size_t>(all->nelements)))
		if (seen.holdMask != 0 && memcmp(&seen.locktag, &tag, sizeof(tag)) == 0)
			pids[count++] = seen.pid;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	auto result = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);

	for (int pid : std::span(pids, count))
	{
		Datum value = Int32GetDatum(pid);
		bool null = false;

		tuplestore_putvalues(result->setResult, result->setDesc, &value, &null);
	}
	return 0;
}

static void
put_row(const holds::row &row, void *result_set)
{
	auto result = static_cast<ReturnSetInfo *>(result_set);
	Datum values[] = {
		Int64GetDatum(row.lock_id),
		PointerGetDatum(row.name == nullptr ? nullptr : cstring_to_text(row.name)),
		CStringGetTextDatum(row.mode == mode::shared ? "shared" : "exclusive"),
		CStringGetTextDatum(row.scope == scope::session ? "session" : "transaction"),
		Int64GetDatum(row.depth),
		TimestampTzGetDatum(row.since),
	};
	bool nulls[std::size(values)] = {false, row.name == nullptr};

	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

Datum
return_session_holds(FunctionCallInfo fcinfo)
{
	context::check_no_parallel_worker();
	InitMaterializedSRF(fcinfo, 0);
	holds::for_each_row(put_row, fcinfo->resultinfo);
	return 0;
}
} // namespace pglock
