/*
 * holders.cpp: who holds a lock and who waits for it, in words.
 */
#include "holders.hpp"

#include "activity.hpp"
#include "lock_table.hpp"
#include "registry.hpp"
#include "visibility.hpp"

namespace pglock
{
namespace
{
/* So many are named, and the others counted. */
constexpr size_t most_named = 5;

/* Is that what was asked for: the lock, or one of the slots of its key. */
bool
is_asked_for(const lockable &what, const lockable &asked)
{
	return what == asked ||
		   (asked.slot == any_slot && what.slot > 0 && what.lock_id == asked.lock_id);
}

/* Since when a process holds that, in whatever mode and scope; 0: it has not published it. */
TimestampTz
held_since(const registry::reader &published, const lock_table::holder &by, const lockable &asked)
{
	TimestampTz since = 0;

	published.for_each(by.number, [&](const registry::publication &p) {
		if (!is_asked_for(p.what, asked))
			return;
		for (mode m : modes)
			for (scope s : scopes)
				if (TimestampTz begun = p.in(m, s).since; begun != 0)
					since = since == 0 ? begun : Min(since, begun);
	});
	return since;
}

/* Adds one more to what is said in parentheses. */
void
add_fact(StringInfo facts, const char *fact)
{
	appendStringInfo(facts, "%s%s", facts->len > 0 ? ", " : "", fact);
}

/* For whom it takes its locks, and since when it holds that, as far as it has published it. */
void
add_published(StringInfo facts, const lock_table::holder &by, const lockable &asked)
{
	registry::reader published;

	published.begin(by.number, by.pid);
	if (const text *holder = published.holder(by.number); holder != nullptr)
		add_fact(facts, psprintf("for \"%s\"", text_to_cstring(holder)));
	if (TimestampTz since = held_since(published, by, asked); since != 0)
		add_fact(facts, psprintf("since %s", timestamptz_to_str(since)));
	published.end();
}

void
append_holder(StringInfo words, const activity::reader &activity, const lock_table::holder &by,
			  const lockable &asked)
{
	StringInfoData facts;

	if (by.pid == 0)
	{
		appendStringInfoString(words, "a prepared transaction");
		return;
	}
	appendStringInfo(words, "process %d", by.pid);
	if (!may_see(by.role))
		return;
	initStringInfo(&facts);
	if (const PgBackendStatus *status = activity.status_of(by.pid);
		status != nullptr && status->st_appname[0] != '\0')
		add_fact(&facts, status->st_appname);
	add_published(&facts, by, asked);
	if (facts.len > 0)
		appendStringInfo(words, " (%s)", facts.data);
}
} // namespace

const char *
describe_other_holders(const lock_key &key)
{
	std::span<const lock_table::holder> holders = lock_table::holders(key);
	activity::reader activity;
	StringInfoData words;
	size_t others = 0;

	activity.begin();
	initStringInfo(&words);
	for (const lock_table::holder &by : holders)
	{
		if (by.pid == MyProcPid || others++ >= most_named)
			continue;
		appendStringInfoString(&words, words.len > 0 ? ", " : "");
		append_holder(&words, activity, by, key);
	}
	if (others > most_named)
		appendStringInfo(&words, " and %zu more", others - most_named);
	return others > 0 ? words.data : nullptr;
}

const char *
hint_at_parties(const lock_key &key)
{
	bool may_wait_for_nobody =
		client_connection_check_interval == 0 && lock_table::has_waiters(key);

	return may_wait_for_nobody
			   ? "The view pglock.locks shows who holds it and who waits. The clients of those who "
				 "wait may be gone: the server notices if \"client_connection_check_interval\" is "
				 "set."
			   : "The view pglock.locks shows who holds it and who waits.";
}
} // namespace pglock
