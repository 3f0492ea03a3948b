/*
 * views.cpp: what is shown of the locks.
 *
 * That a lock is held or waited for, by whom and in which mode is read from the lock manager, whose
 * table can't change meanwhile. What the sessions publish of those locks is brought up to date in
 * that moment, so that both fit together; all else comes after it, since all others wait for it.
 */
#include "views.hpp"

#include "activity.hpp"
#include "contention.hpp"
#include "context.hpp"
#include "holds.hpp"
#include "lock_map.hpp"
#include "lock_table.hpp"
#include "registry.hpp"
#include "row_builder.hpp"
#include "row_index.hpp"
#include "shared.hpp"
#include "standby.hpp"
#include "visibility.hpp"

#include <algorithm>
#include <iterator>
#include <optional>

namespace pglock
{
namespace
{
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

/* By what its name is kept: slots have that of their key. */
lockable
of_key(const lockable &what)
{
	return {what.lock_id, no_slot};
}

/* The number of a slot; 0 for whoever waits for any. */
template <int count>
void
add_slot(row_builder<count> &columns, const lockable &what)
{
	columns.add_if(what.slot != no_slot, Int32GetDatum(Max(what.slot, 0)));
}

/*
 * The locks and what is published of them.
 */

struct lock_status
{
	FunctionCallInfo fcinfo;
	bool shows_sessions;
	MemoryContext memory;
	MemoryContext row_memory; /* for an array that goes into a row, which is copied */
	activity::reader activity;
	registry::reader reader;
	arena own_copies;
	bool may_retry;
	bool has_missed;
	lock_table::snapshot locks;
	lock_map<const text> names; /* that the current user may see; made when it is needed */
	bool has_names;
	const text *hidden_name;
	const text *mode_names[2];
	const text *scope_names[2];
	std::optional<lock_table::blockers> blockers;
	bool has_checked_role; /* for may_see_session(): the last question and its answer */
	Oid checked_role;
	bool may_see_role;
};

/* Calls `visit(by, rows)` for each process that has to do with locks. */
template <typename Visit>
void
for_each_process(std::span<const lock_table::row> rows, Visit visit)
{
	for (size_t first = 0, end; first < rows.size(); first = end)
	{
		for (end = first; end < rows.size() && rows[end].by == rows[first].by;)
			end++;
		visit(*rows[first].by, rows.subspan(first, end - first));
	}
}

/* Has the process other records than this session, which knows its own. */
bool
is_other_session(const lock_table::process &by)
{
	return by.pid != 0 && by.pid != MyProcPid;
}

/* Called while the lock table can't change. */
void
catch_up(const lock_table::snapshot &locks, void *argument)
{
	auto &status = *static_cast<lock_status *>(argument);

	status.locks = locks;
	for_each_process(locks.rows, [&](const lock_table::process &by, auto) {
		if (is_other_session(by) && !(status.has_missed && status.may_retry) &&
			!status.reader.catch_up(by.number, by.pid))
			status.has_missed = true;
	});
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
		lock_table::take(catch_up, &status);
		if (!status.has_missed || !status.may_retry)
			break;
		status.reader.end();
	}
}

/* Calls `visit(publication)` for all that a process has published. */
template <typename Visit>
void
for_each_publication(lock_status &status, const lock_table::process &by, Visit visit)
{
	auto visit_own = [&](const registry::record &r) {
		if (auto copy = registry::copy(r, status.own_copies); copy != nullptr)
			visit(*copy);
	};

	if (by.pid == MyProcPid)
		holds::for_each_record(
			[](const registry::record &r, void *argument) {
				(*static_cast<decltype(visit_own) *>(argument))(r);
			},
			&visit_own);
	else if (is_other_session(by))
		status.reader.for_each(by.number, visit);
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
	for_each_process(status.locks.rows, [&](const lock_table::process &by, auto) {
		if (!may_see_session(status, by))
			return;
		for_each_publication(status, by, [&](const registry::publication &p) {
			if (!p.has_name || status.names.find(of_key(p.what)) != nullptr)
				return;
			status.names.reserve(status.memory);
			status.names.add(of_key(p.what), p.name());
		});
	});
}

const text *
name_of_lock(lock_status &status, const lock_table::row &row, const registry::publication *p)
{
	/* a prepared transaction has no session */
	if (row.by->pid != 0 && !may_see_session(status, *row.by))
		return row.has_lock_id ? status.hidden_name : nullptr;
	if (p != nullptr && p->has_name)
		return p->name();
	if (!row.has_lock_id)
		return nullptr;

	if (!status.has_names)
		collect_names(status);

	return status.names.find(of_key(row.what));
}

Datum
blockers_of(lock_status &status, const lock_table::row &row)
{
	std::span<const int> pids = status.blockers->of(row);

	MemoryContextReset(status.row_memory);

	MemoryContext caller = MemoryContextSwitchTo(status.row_memory);
	auto elements = static_cast<Datum *>(palloc(sizeof(Datum) * (pids.size() + 1)));

	for (size_t i = 0; i < pids.size(); i++)
		elements[i] = Int32GetDatum(pids[i]);

	ArrayType *array = construct_array(elements, static_cast<int>(pids.size()), INT4OID,
									   sizeof(int32), true, TYPALIGN_INT);

	MemoryContextSwitchTo(caller);
	return PointerGetDatum(array);
}

/* What the view shows of a process with all of its locks. */
struct shown_process
{
	activity::session session;
	bool is_visible;	/* what it publishes may be seen */
	const text *holder; /* whom it takes its locks for; nullptr: nobody, or not to be seen */
};

/* What the view shows of a lock in one mode. */
struct shown_lock
{
	const lock_table::row &row;
	const shown_process &process;
	pglock::mode mode;
	bool granted;
	const text *name;
	const registry::publication *published; /* nullptr: nothing, or not to be seen */
};

/* Since when the process waits for the lock; 0: it does not, or that is not known. */
TimestampTz
waiting_since(const shown_lock &shown)
{
	if (shown.granted)
		return 0;
	if (shown.row.by->wait_start != 0)
		return shown.row.by->wait_start;
	return shown.published != nullptr ? shown.published->waiting_since() : 0;
}

void
add_session(row_builder<16> &columns, const activity::session &session)
{
	columns.add_if(session.role != nullptr, PointerGetDatum(session.role));
	columns.add_text(session.application_name);
	columns.add_if(!session.client_address.isnull, session.client_address.value);
}

/* A row of the view, for a lock at one scope, if that is known. */
void
put_lock(lock_status &status, const shown_lock &shown, const text *scope_name,
		 const registry::hold_state &state)
{
	const lock_table::row &row = shown.row;
	bool has_depth = shown.granted && state.depth > 0;
	int64 token = shown.granted && shown.mode == mode::exclusive && shown.published != nullptr
					  ? shown.published->token()
					  : 0;
	row_builder<16> columns;

	columns.add_text(shown.name);
	columns.add_if(row.has_lock_id, Int64GetDatum(row.what.lock_id));
	columns.add_text(status.mode_names[static_cast<int>(shown.mode)]);
	columns.add_text(scope_name);
	columns.add(BoolGetDatum(shown.granted));
	columns.add_if(has_depth, Int64GetDatum(state.depth));
	columns.add_if(row.by->pid != 0, Int32GetDatum(row.by->pid));
	if (status.shows_sessions)
		add_session(columns, shown.process.session);
	/* a session that was granted the lock, but has not run since, could not say when */
	columns.add_time(!has_depth ? 0 : state.since != 0 ? state.since : status.locks.taken_at);
	columns.add_time(waiting_since(shown));
	if (shown.granted)
		columns.add_null();
	else
		columns.add(blockers_of(status, row));
	columns.add_if(token != 0, Int64GetDatum(token));
	add_slot(columns, row.what);
	columns.add_text(shown.process.holder);
	columns.put(status.fcinfo);
}

/* The rows of the view for a mode in which a lock is held, or waited for: one for each scope. */
void
put_mode(lock_status &status, const lock_table::row &row, const shown_process &process,
		 const registry::publication *p, mode m, bool granted)
{
	shown_lock shown = {
		row, process, m, granted, name_of_lock(status, row, p), process.is_visible ? p : nullptr};
	bool has_scope = false;

	for (scope s : scopes)
		if (shown.published != nullptr && shown.published->in(m, s).depth > 0)
		{
			put_lock(status, shown, status.scope_names[static_cast<int>(s)],
					 shown.published->in(m, s));
			has_scope = true;
		}
	if (!has_scope || shown.published->has_builtins(m))
		put_lock(status, shown, nullptr, {});
}

mode
mode_of(LOCKMODE lockmode)
{
	return lockmode == ExclusiveLock ? mode::exclusive : mode::shared;
}

/* What a process has published of its locks, by row; nullptr: nothing. */
const registry::publication **
published_with(lock_status &status, const lock_table::process &by,
			   std::span<const lock_table::row> rows)
{
	row_index index(rows);
	auto published = static_cast<const registry::publication **>(
		MemoryContextAllocExtended(CurrentMemoryContext,
								   sizeof(registry::publication *) * rows.size(),
								   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO));

	for_each_publication(status, by, [&](const registry::publication &p) {
		index.find(p.what, [&](uint32 row) { published[row] = &p; });
	});
	index.free();
	return published;
}

/* Has memory that is needed soon come nearer: with many locks most of the time is waiting for it.
 */
void
prefetch(const registry::publication *p)
{
	constexpr int cache_line = 64;

	for (Size at = 0; at < sizeof(*p); at += cache_line)
		__builtin_prefetch(reinterpret_cast<const char *>(p) + at);
}

shown_process
show_process(lock_status &status, const lock_table::process &by)
{
	shown_process shown = {status.activity.of(by.pid), may_see_session(status, by), nullptr};

	if (by.pid == MyProcPid)
		shown.holder = registry::own_holder();
	else if (is_other_session(by) && shown.is_visible)
		shown.holder = status.reader.holder(by.number);
	return shown;
}

/* The rows of the view for all locks of one process. */
void
put_process(lock_status &status, const lock_table::process &by,
			std::span<const lock_table::row> rows)
{
	constexpr size_t soon = 8;
	const registry::publication **published = published_with(status, by, rows);
	shown_process process = show_process(status, by);

	for (size_t i = 0; i < rows.size(); i++)
	{
		const lock_table::row &row = rows[i];

		if (i + soon < rows.size())
			prefetch(published[i + soon]);
		for (LOCKMASK left = row.held; left != 0; left &= left - 1)
			put_mode(status, row, process, published[i],
					 mode_of(pg_rightmost_one_pos32(static_cast<uint32>(left))),
					 !row.is_in_front());
		if (row.waits)
			put_mode(status, row, process, published[i], mode_of(row.by->awaited), false);
	}
	pfree(published);
}

/* What is shown as the key, to whom may see who waited for it. */
const char *
shown_key(const contention::statistics &s)
{
	if (!s.has_name)
		return nullptr;
	return std::any_of(std::begin(s.roles), std::end(s.roles), may_see) ? s.name : hidden;
}

/* A key's statistics as a row of the view. */
void
put_contention(const contention::statistics &s, void *fcinfo)
{
	row_builder<11> columns;
	auto milliseconds = [](int64 microseconds) {
		return Float8GetDatum(static_cast<double>(microseconds) / 1000.0);
	};

	columns.add_text(shown_key(s));
	columns.add(Int64GetDatum(s.what.lock_id));
	columns.add(Int64GetDatum(s.waits));
	columns.add(milliseconds(s.total_wait_time));
	columns.add(milliseconds(s.max_wait_time));
	columns.add(Int64GetDatum(s.timeouts));
	columns.add(Int64GetDatum(s.deadlocks));
	columns.add(Int64GetDatum(s.cancels));
	columns.add_time(s.last_wait_at);
	columns.add_time(s.since);
	columns.add(BoolGetDatum(s.what.slot != no_slot));
	columns.put(static_cast<FunctionCallInfo>(fcinfo));
}

/* How long its waits took, as rows of the view: each counts those of the rows before it, too. */
void
put_histogram(const contention::statistics &s, void *fcinfo)
{
	const text *key = s.has_name ? cstring_to_text(shown_key(s)) : nullptr;
	int64 waits = 0;

	for (size_t i = 0; i < contention::buckets; i++)
	{
		row_builder<5> columns;
		bool is_last = i == std::size(contention::longest_of_bucket);

		waits += s.by_duration[i];
		columns.add_text(key);
		columns.add(Int64GetDatum(s.what.lock_id));
		columns.add(BoolGetDatum(s.what.slot != no_slot));
		columns.add(Float8GetDatum(is_last
									   ? get_float8_infinity()
									   : static_cast<double>(contention::longest_of_bucket[i])));
		columns.add(Int64GetDatum(waits));
		columns.put(static_cast<FunctionCallInfo>(fcinfo));
	}
}

/* A row of this session's books. */
void
put_own_hold(const holds::row &row, void *fcinfo)
{
	row_builder<7> columns;

	columns.add(Int64GetDatum(row.what.lock_id));
	columns.add_text(row.name);
	columns.add_text(name_of(row.mode));
	columns.add_text(name_of(row.scope));
	columns.add(Int64GetDatum(row.depth));
	columns.add_time(row.since);
	add_slot(columns, row.what);
	columns.put(static_cast<FunctionCallInfo>(fcinfo));
}
} // namespace

Datum
return_holders(FunctionCallInfo fcinfo, const lock_key &key)
{
	std::span<const lock_table::holder> holders = lock_table::holders(key);

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	for (const lock_table::holder &by : holders)
	{
		row_builder<1> columns;

		columns.add(Int32GetDatum(by.pid));
		columns.put(fcinfo);
	}
	return 0;
}

Datum
return_lock_status(FunctionCallInfo fcinfo, bool with_sessions)
{
	lock_status status = {};

	if (standby::is_off_limits())
		standby::refuse("show locks");
	context::check_no_parallel_worker();
	InitMaterializedSRF(fcinfo, 0);
	status.fcinfo = fcinfo;
	status.shows_sessions = with_sessions;
	holds::refresh_all();
	read_locks(status);
	status.activity.begin();
	status.memory = CurrentMemoryContext;
	status.own_copies = arena(status.memory);
	status.row_memory =
		AllocSetContextCreate(CurrentMemoryContext, "pglock row", ALLOCSET_SMALL_SIZES);
	status.blockers.emplace(status.locks);
	status.hidden_name = cstring_to_text(hidden);
	for (mode m : modes)
		status.mode_names[static_cast<int>(m)] = cstring_to_text(name_of(m));
	for (scope s : scopes)
		status.scope_names[static_cast<int>(s)] = cstring_to_text(name_of(s));
	for_each_process(status.locks.rows, [&](const lock_table::process &by, auto rows) {
		put_process(status, by, rows);
	});
	status.reader.end();
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
return_contention_histogram(FunctionCallInfo fcinfo)
{
	InitMaterializedSRF(fcinfo, 0);
	contention::for_each(put_histogram, fcinfo);
	return 0;
}

Datum
return_contention_info(FunctionCallInfo fcinfo)
{
	row_builder<4> columns;
	auto table = contention::info();

	InitMaterializedSRF(fcinfo, 0);
	if (!table)
		return 0;
	columns.add(Int32GetDatum(table->keys));
	columns.add(Int32GetDatum(table->max_keys));
	columns.add(Int64GetDatum(table->evictions));
	columns.add_time(table->last_eviction_at);
	columns.put(fcinfo);
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
