/*
 * holds.cpp: this session's books.
 *
 * Order of work: what can fail comes first (room in the books), then the lock, then only stores
 * that can't fail. A failure in between leaves a hold in the books that is not held, which the next
 * look removes. What is published of a hold keeps the order that registry.hpp asks for.
 */
#include "holds.hpp"

#include "contention.hpp"
#include "hold_table.hpp"
#include "module.hpp"

namespace pglock::holds
{
namespace
{
/* The start of the last command of the client that took a level of session scope. */
TimestampTz last_taking_command = 0;

/* When there are this many holds, look for those that are no longer held. */
constexpr uint32 smallest_prune_size = 64;
uint32 prune_size = smallest_prune_size;

/* Is the hold in use: held, or asked for right now. */
bool
is_wanted(const hold &h)
{
	return h.in(mode::exclusive).entry != nullptr || h.in(mode::shared).entry != nullptr ||
		   h.is_waited_for;
}

void
forget_levels(hold &h, mode m, int64 count)
{
	int64 &taken = h.in(m).taken_by_command;

	h.levels.remove(m, count);
	h.in(m).seen_levels = 0;
	taken = Max(taken - count, 0);
}

/* Publishes how many levels of a hold there are at that scope, if any were taken through pglock. */
void
set_depth(hold &h, mode m, scope s, int64 depth)
{
	registry::hold_state &state = h.published->in(m, s);

	if (state.since == 0 || state.depth == depth)
		return;
	if (depth == 0)
		registry::store(state.since, TimestampTz{0});
	registry::store(state.depth, depth);
}

/* Ends the possession of a lock in one mode. */
void
end_possession(hold &h, mode m)
{
	h.in(m).entry = nullptr;
	for (scope s : scopes)
		set_depth(h, m, s, 0);
	if (m == mode::exclusive)
		registry::store(h.published->token, int64{0});
}

/* Forgets that the lock was asked for and not granted: the lock manager may have raised an error.
 */
void
forget_request(hold &h)
{
	if (!h.is_asked_for || h.is_waited_for)
		return;
	for (mode m : modes)
		for (scope s : scopes)
			if (h.published->in(m, s).since == 0)
				registry::store(h.published->in(m, s).depth, int64{0});
	h.is_asked_for = false;
}

/*
 * Brings the books of a lock in one mode in line with the lock manager. Called for all locks
 * whenever a statement ends, so it looks into what is published only if something has changed.
 */
void
refresh(hold &h, mode m)
{
	possession &held = h.in(m);

	if (held.entry == nullptr)
		return;
	if (!manager::is_unbroken(held.entry, {h.lock_id, m}))
	{
		forget_levels(h, m, h.levels.count(m));
		end_possession(h, m);
		return;
	}

	int64 of_session = manager::session_levels(held.entry);

	if (held.seen_levels == held.entry->nLocks && held.seen_of_session == of_session)
		return;

	int64 ours = h.levels.count(m);
	int64 of_transaction = held.entry->nLocks - of_session;

	/* what was given back behind our back was the newest */
	if (ours > of_session)
		forget_levels(h, m, ours - of_session);
	set_depth(h, m, scope::session, ours > 0 ? of_session : 0);
	set_depth(h, m, scope::transaction, of_transaction > held.of_builtins ? of_transaction : 0);
	held.seen_levels = held.entry->nLocks;
	held.seen_of_session = of_session;
}

void
refresh(hold &h)
{
	for (mode m : modes)
		refresh(h, m);
	forget_request(h);
}

void
refresh_or_remove(hold &h)
{
	refresh(h);
	if (!is_wanted(h))
		hold_table::remove(h);
}

void
prune()
{
	hold_table::for_each(refresh_or_remove);
	hold_table::trim();
	prune_size = Max(smallest_prune_size, 2 * hold_table::size());
}

/* The books of that lock, in line with the lock manager; nullptr if there are none. */
hold *
find(int64 lock_id)
{
	hold *h = hold_table::find(lock_id);

	if (h != nullptr)
		refresh(*h);
	return h;
}

/* Raises 54000 if this lock would be one too many. */
void
check_limit(const lock_key &key)
{
	hold *known = find(key.lock_id);
	auto limit = static_cast<uint32>(settings::max_holds);

	if (known != nullptr && is_wanted(*known))
		return;
	if (hold_table::size() >= limit)
		prune();
	if (hold_table::size() < limit)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("could not acquire lock %s: the session holds too many locks", describe(key)),
			 errdetail("The session holds %u different locks, and \"pglock.max_holds\" "
					   "is %u.",
					   hold_table::size(), limit),
			 errhint("Release locks that are no longer needed, or have a superuser raise "
					 "the limit.")));
}

/* The books of a lock, which are opened if there are none. Raises 53200. */
hold &
open_books(const lock_key &key)
{
	hold *h = find(key.lock_id);

	if (h == nullptr)
	{
		if (hold_table::size() >= prune_size)
			prune();
		return hold_table::add(key);
	}
	if (!h->published->has_name && key.name.data() != nullptr)
		registry::set_name(*h->published, key.name);
	return *h;
}

/* The books of a lock that is about to be taken, with room for one more level. */
hold &
reserve(const lock_key &key)
{
	if (settings::max_holds > 0)
		check_limit(key);

	hold &h = open_books(key);

	h.levels.reserve(hold_table::memory());
	return h;
}

/* Publishes that the lock is asked for. */
void
announce(hold &h, mode m, scope s)
{
	registry::hold_state &state = h.published->in(m, s);

	if (state.depth == 0)
		registry::store(state.depth, int64{1});
	h.is_asked_for = true;
}

/* The lock that was asked for is not to be had. */
void
retract(hold &h, mode m, scope s)
{
	registry::hold_state &state = h.published->in(m, s);

	if (state.since == 0)
		registry::store(state.depth, int64{0});
	h.is_asked_for = false;
	if (!is_wanted(h))
		hold_table::remove(h);
}

void
end_wait(hold &h)
{
	h.is_waited_for = false;
	registry::store(h.published->waiting_since, TimestampTz{0});
}

/* Starts the books of a possession that the lock manager has. */
void
begin_possession(hold &h, mode m, LOCALLOCK *entry)
{
	manager::mark_unbroken(entry);
	h.in(m) = {};
	h.in(m).entry = entry;
}

/* Books a level that the lock manager has just granted. Never raises. */
void
book(hold &h, mode m, scope as, LOCALLOCK *entry)
{
	registry::hold_state &state = h.published->in(m, as);
	TimestampTz command = GetCurrentStatementStartTimestamp();

	if (h.in(m).entry == nullptr)
		begin_possession(h, m, entry);

	possession &held = h.in(m);
	int64 of_session = manager::session_levels(entry);
	int64 of_scope = as == scope::session ? of_session : entry->nLocks - of_session;

	if (state.since == 0)
	{
		registry::store(state.since, GetCurrentTimestamp());
		if (as == scope::transaction)
			held.of_builtins = of_scope - 1;
	}
	set_depth(h, m, as, of_scope);
	h.is_asked_for = false;
	held.seen_levels = 0;
	if (as == scope::transaction)
		return; /* its end, or its rollback, gives the level back */

	if (h.command != command)
	{
		h.command = last_taking_command = command;
		for (mode other : modes)
			h.in(other).taken_by_command = 0;
	}
	held.taken_by_command++;
	h.levels.push(m);
}

bool
book_if_taken(hold &h, mode m, scope as, LOCALLOCK *entry)
{
	if (entry != nullptr)
		book(h, m, as, entry);
	else
		retract(h, m, as);
	return entry != nullptr;
}

/* The lock manager's entry for a lock that this session holds, however it was taken. */
LOCALLOCK *
find_entry(hold *known, const lock &asked)
{
	LOCALLOCK *entry = known != nullptr ? known->in(asked.mode).entry : nullptr;

	return entry != nullptr ? entry : manager::find(asked);
}

int64
levels(const hold &h)
{
	return h.levels.count(mode::exclusive) + h.levels.count(mode::shared);
}

void
give_back(hold &h, mode m, int64 count)
{
	forget_levels(h, m, count);
	for (int64 i = 0; i < count; i++)
		manager::give_back({h.lock_id, m}, scope::session);
}

int64
give_back_all(hold &h)
{
	int64 given_back = 0;

	refresh(h);
	for (mode m : modes)
	{
		int64 count = h.levels.count(m);

		give_back(h, m, count);
		given_back += count;
	}
	refresh_or_remove(h);
	return given_back;
}

} // namespace

bool
take(const lock_key &key, mode m, scope as)
{
	hold &h = reserve(key);

	announce(h, m, as);
	return book_if_taken(h, m, as, manager::take({key.lock_id, m}, as));
}

bool
wait(const lock_key &key, mode m, scope as, TimestampTz deadline, manager::when_late late)
{
	hold &h = reserve(key);
	LOCALLOCK *entry = nullptr;

	announce(h, m, as);
	h.is_waited_for = true;
	registry::store(h.published->waiting_since, contention::begin_wait(key));
	PG_TRY();
	{
		entry = manager::wait({key.lock_id, m}, as, deadline, late);
	}
	PG_CATCH();
	{
		contention::end_wait(contention::outcome_of_error());
		end_wait(h);
		retract(h, m, as);
		PG_RE_THROW();
	}
	PG_END_TRY();
	contention::end_wait(entry != nullptr ? contention::outcome::granted
										  : contention::outcome::timeout);
	end_wait(h);
	return book_if_taken(h, m, as, entry);
}

void
undo(const lock_key &key, mode m, scope as)
{
	hold *h = find(key.lock_id);

	if (h == nullptr || h->in(m).entry == nullptr)
		return;
	if (as == scope::session)
		give_back(*h, m, 1);
	else
		manager::give_back({key.lock_id, m}, scope::transaction);
	refresh_or_remove(*h);
}

std::optional<level>
newest(int64 lock_id, std::optional<mode> only)
{
	hold *h = find(lock_id);

	if (!only && h != nullptr && !h->levels.empty())
		only = h->levels.top();
	for (mode m : modes)
	{
		if (only.value_or(m) != m)
			continue;

		LOCALLOCK *entry = find_entry(h, {lock_id, m});

		if (entry != nullptr && manager::session_levels(entry) > 0)
			return level{{lock_id, m}, entry->nLocks == 1};
	}
	return std::nullopt;
}

void
give_back(const level &newest)
{
	hold *h = hold_table::find(newest.of.lock_id);

	if (h == nullptr)
	{
		manager::give_back(newest.of, scope::session);
		return;
	}
	give_back(*h, newest.of.mode, 1);
	if (newest.is_last)
		end_possession(*h, newest.of.mode);
	else
		refresh(*h, newest.of.mode);
	if (!is_wanted(*h))
		hold_table::remove(*h);
}

int64
levels(int64 lock_id)
{
	hold *h = find(lock_id);

	return h != nullptr ? levels(*h) : 0;
}

int64
levels()
{
	int64 total = 0;

	hold_table::for_each([&](hold &h) {
		refresh(h);
		total += levels(h);
	});
	return total;
}

int64
give_back_all(int64 lock_id)
{
	hold *h = find(lock_id);

	return h != nullptr ? give_back_all(*h) : 0;
}

int64
give_back_all()
{
	int64 total = 0;

	hold_table::for_each([&](hold &h) { total += give_back_all(h); });
	hold_table::trim();
	return total;
}

void
give_back_taken_by(TimestampTz command)
{
	if (last_taking_command != command)
		return;
	hold_table::for_each([=](hold &h) {
		if (h.command != command)
			return;
		refresh(h);
		for (mode m : modes)
			give_back(h, m, h.in(m).taken_by_command);
		refresh_or_remove(h);
	});
}

void
refresh_all()
{
	if (hold_table::size() > 0)
		prune();
	else
		hold_table::trim();
}

int64 *
token_of(const lock_key &key)
{
	LOCALLOCK *entry = find_entry(find(key.lock_id), {key.lock_id, mode::exclusive});

	if (entry == nullptr)
		return nullptr;

	hold &h = open_books(key);

	if (h.in(mode::exclusive).entry == nullptr)
		begin_possession(h, mode::exclusive, entry);
	return &h.published->token;
}

void
for_each_record(void (*visit)(const registry::record &, void *), void *argument)
{
	hold_table::for_each([=](const hold &h) { visit(*h.published, argument); });
}

void
for_each_row(void (*visit)(const row &, void *), void *argument)
{
	hold_table::for_each([=](hold &h) {
		refresh(h);
		for (mode m : modes)
			for (scope s : scopes)
			{
				const registry::record &published = *h.published;
				const registry::hold_state &state = published.in(m, s);

				if (state.since != 0)
					visit({h.lock_id, published.has_name ? published.name : nullptr, m, s,
						   state.depth, state.since},
						  argument);
			}
	});
}
} // namespace pglock::holds
