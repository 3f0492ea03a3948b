/*
 * views.cpp: what is shown of the locks.
 *
 * That a lock is held or waited for, by whom and in which mode is read from the lock manager. While
 * its table can't change, what the sessions publish of those locks is read beside it, so that both
 * fit together.
 */
#include "views.hpp"

#include "contention.hpp"
#include "context.hpp"
#include "holds.hpp"
#include "lock_id_map.hpp"
#include "lock_table.hpp"
#include "registry.hpp"
#include "shared.hpp"

#include <algorithm>
#include <iterator>
#include <optional>

namespace pglock
{
namespace
{
constexpr const char *hidden = "<insufficient privilege>";

/* A row being made: columns in order. */
template <int columns> class row_builder
{
  public:
	void
	add(Datum value)
	{
		values[count] = value;
		nulls[count++] = false;
	}

	void
	add_null()
	{
		values[count] = 0;
		nulls[count++] = true;
	}

	void
	add_text(const char *value)
	{
		if (value == nullptr)
			add_null();
		else
			add(CStringGetTextDatum(value));
	}

	void
	add_time(TimestampTz time)
	{
		if (time == 0)
			add_null();
		else
			add(TimestampTzGetDatum(time));
	}

	void
	put(FunctionCallInfo fcinfo)
	{
		auto result = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);

		Assert(count == columns);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}

  private:
	Datum values[columns];
	bool nulls[columns];
	int count = 0;
};

/* May the current user see the data of that role's sessions: the rule of pg_stat_activity. */
bool
may_see(Oid role)
{
	return (OidIsValid(role) && has_privs_of_role(GetUserId(), role)) ||
		   has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
}

const char *
name_of(mode m)
{
	return m == mode::shared ? "shared" : "exclusive";
}

const char *
name_of(scope s)
{
	return s == scope::session ? "session" : "transaction";
}

/*
 * The locks and what is published of them.
 */

struct lock_status
{
	FunctionCallInfo fcinfo;
	MemoryContext memory;
	MemoryContext row_memory; /* for what goes into a row, which is copied */
	registry::reader reader;
	bool may_retry;
	bool has_missed;
	lock_table::snapshot locks;
	const registry::record **published; /* by row; nullptr: nothing is */
	lock_id_map<uint32> rows;			/* of the process that is being read */
	lock_id_map<const char *> names;	/* that the current user may see; made when it is needed */
	bool has_names;
	std::optional<lock_table::blockers> blockers;
	bool has_checked_role; /* for may_see_session(): the last question and its answer */
	Oid checked_role;
	bool may_see_role;
};

/* Called for each record that a process may have published. */
void
note_record(const registry::record &r, void *argument)
{
	auto &status = *static_cast<lock_status *>(argument);
	uint32 *row = status.rows.find(registry::load(r.lock_id));

	if (row == nullptr)
		return;

	const registry::record *copy = registry::read(r);

	if (copy != nullptr && copy->lock_id == status.locks.rows[*row].lock_id)
		status.published[*row] = copy;
}

/* Reads what one process has published of its locks: those in these rows. */
void
read_process(lock_status &status, size_t first, size_t end)
{
	const lock_table::process &by = *status.locks.rows[first].by;

	if (by.pid == 0)
		return; /* a prepared transaction publishes nothing */
	status.rows.clear();
	status.rows.reserve(CurrentMemoryContext, static_cast<uint32>(end - first));
	for (size_t i = first; i < end; i++)
		if (status.locks.rows[i].has_lock_id)
			status.rows.add(status.locks.rows[i].lock_id, static_cast<uint32>(i));
	if (by.pid == MyProcPid)
		holds::for_each_record(note_record, &status);
	else if (status.may_retry && status.reader.has_missed(by.number, by.pid))
		status.has_missed = true;
	else
		status.reader.for_each(by.number, by.pid, note_record, &status);
}

/* Called while the lock table can't change. */
void
read_registry(const lock_table::snapshot &locks, void *argument)
{
	auto &status = *static_cast<lock_status *>(argument);
	size_t count = locks.rows.size();

	status.locks = locks;
	status.published = static_cast<const registry::record **>(
		MemoryContextAllocExtended(CurrentMemoryContext, sizeof(*status.published) * (count + 1),
								   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO));
	for (size_t first = 0, end; first < count && !status.has_missed; first = end)
	{
		for (end = first; end < count && locks.rows[end].by == locks.rows[first].by;)
			end++;
		read_process(status, first, end);
	}
}

void
read_locks(lock_status &status)
{
	/* a session that got more memory meanwhile was missed: then once more, but not for ever */
	for (int retries = 100; retries >= 0; retries--)
	{
		status.may_retry = retries > 0;
		status.has_missed = false;
		status.reader.begin();
		lock_table::take(read_registry, &status);
		status.reader.end();
		if (!status.has_missed)
			break;
	}
}

bool
may_see_session(lock_status &status, const lock_table::process &by)
{
	if (by.pid == MyProcPid)
		return true;
	if (!status.has_checked_role || status.checked_role != by.role)
	{
		status.may_see_role = may_see(by.role);
		status.checked_role = by.role;
		status.has_checked_role = true;
	}
	return status.may_see_role;
}

/* The names that are published with locks, which go for all rows of those locks. */
void
collect_names(lock_status &status)
{
	status.has_names = true;
	for (size_t i = 0; i < status.locks.rows.size(); i++)
	{
		const registry::record *r = status.published[i];

		if (r == nullptr || !r->has_name || !may_see_session(status, *status.locks.rows[i].by) ||
			status.names.find(r->lock_id) != nullptr)
			continue;
		status.names.reserve(status.memory);
		status.names.add(r->lock_id, r->name);
	}
}

const char *
name_of_lock(lock_status &status, const lock_table::row &row, const registry::record *r)
{
	/* a prepared transaction has no session */
	if (row.by->pid != 0 && !may_see_session(status, *row.by))
		return row.has_lock_id ? hidden : nullptr;
	if (r != nullptr && r->has_name)
		return r->name;
	if (!row.has_lock_id)
		return nullptr;

	if (!status.has_names)
		collect_names(status);

	const char **name = status.names.find(row.lock_id);

	return name != nullptr ? *name : nullptr;
}

Datum
blockers_of(lock_status &status, const lock_table::row &row)
{
	std::span<const int> pids = status.blockers->of(row);
	auto elements = static_cast<Datum *>(palloc(sizeof(Datum) * (pids.size() + 1)));

	for (size_t i = 0; i < pids.size(); i++)
		elements[i] = Int32GetDatum(pids[i]);
	return PointerGetDatum(construct_array(elements, static_cast<int>(pids.size()), INT4OID,
										   sizeof(int32), true, TYPALIGN_INT));
}

/* The rows of the view for a mode in which a lock is held, or waited for: one for each scope. */
void
put_mode(lock_status &status, size_t i, mode m, bool granted)
{
	const lock_table::row &row = status.locks.rows[i];
	const registry::record *r = status.published[i];
	const registry::record *seen = r != nullptr && may_see_session(status, *row.by) ? r : nullptr;
	bool has_scope = false;

	auto put = [&](const char *scope_name, const registry::hold_state &state) {
		MemoryContext caller = MemoryContextSwitchTo(status.row_memory);
		row_builder<11> columns;

		columns.add_text(name_of_lock(status, row, r));
		if (row.has_lock_id)
			columns.add(Int64GetDatum(row.lock_id));
		else
			columns.add_null();
		columns.add_text(name_of(m));
		columns.add_text(scope_name);
		columns.add(BoolGetDatum(granted));
		if (granted && state.depth > 0)
			columns.add(Int64GetDatum(state.depth));
		else
			columns.add_null();
		if (row.by->pid != 0)
			columns.add(Int32GetDatum(row.by->pid));
		else
			columns.add_null();
		/* a session that was granted the lock, but has not run since, could not say when */
		columns.add_time(!granted || state.depth == 0 ? 0
						 : state.since != 0			  ? state.since
													  : status.locks.taken_at);
		columns.add_time(granted				   ? 0
						 : row.by->wait_start != 0 ? row.by->wait_start
						 : seen != nullptr		   ? seen->waiting_since
												   : 0);
		if (granted)
			columns.add_null();
		else
			columns.add(blockers_of(status, row));
		if (granted && m == mode::exclusive && seen != nullptr && seen->token != 0)
			columns.add(Int64GetDatum(seen->token));
		else
			columns.add_null();
		columns.put(status.fcinfo);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(status.row_memory);
	};

	for (scope s : scopes)
		if (seen != nullptr && seen->in(m, s).depth > 0)
		{
			put(name_of(s), seen->in(m, s));
			has_scope = true;
		}
	if (!has_scope)
		put(nullptr, {});
}

mode
mode_of(LOCKMODE lockmode)
{
	return lockmode == ExclusiveLock ? mode::exclusive : mode::shared;
}

/* A key's statistics as a row of the view. */
void
put_contention(const contention::statistics &s, void *fcinfo)
{
	row_builder<10> columns;
	auto milliseconds = [](int64 microseconds) {
		return Float8GetDatum(static_cast<double>(microseconds) / 1000.0);
	};
	bool visible = std::any_of(std::begin(s.roles), std::end(s.roles), may_see);

	columns.add_text(!s.has_name ? nullptr : visible ? s.name : hidden);
	columns.add(Int64GetDatum(s.lock_id));
	columns.add(Int64GetDatum(s.waits));
	columns.add(milliseconds(s.total_wait_time));
	columns.add(milliseconds(s.max_wait_time));
	columns.add(Int64GetDatum(s.timeouts));
	columns.add(Int64GetDatum(s.deadlocks));
	columns.add(Int64GetDatum(s.cancels));
	columns.add_time(s.last_wait_at);
	columns.add_time(s.since);
	columns.put(static_cast<FunctionCallInfo>(fcinfo));
}

/* A row of this session's books. */
void
put_own_hold(const holds::row &row, void *fcinfo)
{
	row_builder<6> columns;

	columns.add(Int64GetDatum(row.lock_id));
	columns.add_text(row.name);
	columns.add_text(name_of(row.mode));
	columns.add_text(name_of(row.scope));
	columns.add(Int64GetDatum(row.depth));
	columns.add_time(row.since);
	columns.put(static_cast<FunctionCallInfo>(fcinfo));
}
} // namespace

Datum
return_holders(FunctionCallInfo fcinfo, const lock_key &key)
{
	std::span<const int> pids = lock_table::holders(lock{key.lock_id, mode::exclusive}.tag());

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	for (int pid : pids)
	{
		row_builder<1> columns;

		columns.add(Int32GetDatum(pid));
		columns.put(fcinfo);
	}
	return 0;
}

Datum
return_lock_status(FunctionCallInfo fcinfo)
{
	lock_status status = {};

	context::check_no_parallel_worker();
	InitMaterializedSRF(fcinfo, 0);
	status.fcinfo = fcinfo;
	holds::refresh_all();
	/* the view joins pg_stat_activity, which otherwise stays as it was first read in a transaction
	 */
	pgstat_clear_backend_activity_snapshot();
	read_locks(status);
	status.memory = CurrentMemoryContext;
	status.blockers.emplace(status.locks);
	status.row_memory =
		AllocSetContextCreate(CurrentMemoryContext, "pglock row", ALLOCSET_SMALL_SIZES);
	for (size_t i = 0; i < status.locks.rows.size(); i++)
	{
		const lock_table::row &row = status.locks.rows[i];

		for (LOCKMODE lockmode = 1; lockmode <= MaxLockMode; lockmode++)
			if ((row.held & LOCKBIT_ON(lockmode)) != 0)
				put_mode(status, i, mode_of(lockmode), true);
		if (row.waits)
			put_mode(status, i, mode_of(row.by->awaited), false);
	}
	return 0;
}

Datum
return_contention(FunctionCallInfo fcinfo)
{
	InitMaterializedSRF(fcinfo, 0);
	contention::for_each(put_contention, fcinfo);
	return 0;
}

Datum
return_session_holds(FunctionCallInfo fcinfo)
{
	context::check_no_parallel_worker();
	InitMaterializedSRF(fcinfo, 0);
	holds::for_each_row(put_own_hold, fcinfo);
	return 0;
}
} // namespace pglock
