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
	registry::reader reader;
	bool may_retry;
	bool has_missed;
	lock_table::snapshot locks;
	const registry::record **published; /* by row; nullptr: nothing is */
	lock_id_map<size_t> rows;			/* of the process that is being read */
	lock_id_map<const char *> names;	/* that the current user may see */
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
	size_t *row = status.rows.find(registry::load(r.lock_id));

	if (row == nullptr)
		return;

	auto copy = static_cast<registry::record *>(palloc(sizeof(registry::record)));

	if (registry::read(r, *copy) &&
		copy->lock_id == lock_table::lock_id_of(status.locks.rows[*row].tag))
		status.published[*row] = copy;
	else
		pfree(copy);
}

/* Reads what one process has published of its locks: those in these rows. */
void
read_process(lock_status &status, size_t first, size_t end)
{
	const lock_table::row &process = status.locks.rows[first];

	if (process.pid == 0)
		return; /* a prepared transaction publishes nothing */
	status.rows.clear();
	for (size_t i = first; i < end; i++)
		if (lock_table::has_lock_id(status.locks.rows[i].tag))
		{
			status.rows.reserve(CurrentMemoryContext);
			status.rows.add(lock_table::lock_id_of(status.locks.rows[i].tag), i);
		}
	if (process.pid == MyProcPid)
		holds::for_each_record(note_record, &status);
	else if (status.may_retry && status.reader.has_missed(process.process_number, process.pid))
		status.has_missed = true;
	else
		status.reader.for_each(process.process_number, process.pid, note_record, &status);
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
		for (end = first;
			 end < count && locks.rows[end].process_number == locks.rows[first].process_number;)
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
may_see_session(lock_status &status, const lock_table::row &row)
{
	if (row.pid == MyProcPid)
		return true;
	if (!status.has_checked_role || status.checked_role != row.role)
	{
		status.may_see_role = may_see(row.role);
		status.checked_role = row.role;
		status.has_checked_role = true;
	}
	return status.may_see_role;
}

/* Names are published with a lock's holders and waiters, and go for all of its rows. */
void
collect_names(lock_status &status)
{
	for (size_t i = 0; i < status.locks.rows.size(); i++)
	{
		const registry::record *r = status.published[i];

		if (r == nullptr || !r->has_name || !may_see_session(status, status.locks.rows[i]) ||
			status.names.find(r->lock_id) != nullptr)
			continue;
		status.names.reserve(CurrentMemoryContext);
		status.names.add(r->lock_id, r->name);
	}
}

const char *
name_of_lock(lock_status &status, const lock_table::row &row, const registry::record *r)
{
	/* a prepared transaction has no session */
	if (row.pid != 0 && !may_see_session(status, row))
		return lock_table::has_lock_id(row.tag) ? hidden : nullptr;
	if (r != nullptr && r->has_name)
		return r->name;
	if (!lock_table::has_lock_id(row.tag))
		return nullptr;

	const char **name = status.names.find(lock_table::lock_id_of(row.tag));

	return name != nullptr ? *name : nullptr;
}

Datum
blockers_of(lock_status &status, const lock_table::row &row)
{
	if (!status.blockers)
		status.blockers.emplace(status.locks);

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
	const registry::record *seen =
		row.pid != 0 && r != nullptr && may_see_session(status, row) ? r : nullptr;
	bool has_scope = false;

	auto put = [&](const char *scope_name, const registry::hold_state &state) {
		row_builder<11> columns;

		columns.add_text(name_of_lock(status, row, r));
		if (lock_table::has_lock_id(row.tag))
			columns.add(Int64GetDatum(lock_table::lock_id_of(row.tag)));
		else
			columns.add_null();
		columns.add_text(name_of(m));
		columns.add_text(scope_name);
		columns.add(BoolGetDatum(granted));
		if (granted && state.depth > 0)
			columns.add(Int64GetDatum(state.depth));
		else
			columns.add_null();
		if (row.pid != 0)
			columns.add(Int32GetDatum(row.pid));
		else
			columns.add_null();
		/* a session that was granted the lock, but has not run since, could not say when */
		columns.add_time(!granted || state.depth == 0 ? 0
						 : state.since != 0			  ? state.since
													  : status.locks.taken_at);
		columns.add_time(granted			   ? 0
						 : row.wait_start != 0 ? row.wait_start
						 : seen != nullptr	   ? seen->waiting_since
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

	columns.add_text(!visible ? hidden : s.has_name ? s.name : nullptr);
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
	LOCKTAG tag = lock{key.lock_id, mode::exclusive}.tag();
	lock_table::snapshot locks = lock_table::take(nullptr, nullptr);

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	/* one session may hold the lock in both modes, but has one row for them */
	for (const lock_table::row &row : locks.rows)
		if (row.held != 0 && memcmp(&row.tag, &tag, sizeof(tag)) == 0)
		{
			row_builder<1> columns;

			columns.add(Int32GetDatum(row.pid));
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
	read_locks(status);
	collect_names(status);
	for (size_t i = 0; i < status.locks.rows.size(); i++)
	{
		const lock_table::row &row = status.locks.rows[i];

		for (LOCKMODE lockmode = 1; lockmode <= MaxLockMode; lockmode++)
			if ((row.held & LOCKBIT_ON(lockmode)) != 0)
				put_mode(status, i, mode_of(lockmode), true);
		if (row.awaited != NoLock)
			put_mode(status, i, mode_of(row.awaited), false);
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
