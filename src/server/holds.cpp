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
#include "possessions.hpp"

namespace pglock::holds
{
namespace
{
/* The one that is asked for right now, or was when the lock manager raised an error. */
hold *asked_for = nullptr;

bool any_was_taken = false;

/* How many holds are foreign. */
uint32 foreign_holds = 0;

/* When there are this many holds, look for those that are no longer held. */
constexpr uint32 smallest_prune_size = 64;
uint32 prune_size = smallest_prune_size;

void
remove(hold &h)
{
	possessions::leave_transaction(h);
	if (asked_for == &h)
		asked_for = nullptr;
	foreign_holds -= h.is_foreign;
	hold_table::remove(h);
}

/* Takes back that a lock is asked for; if it was granted, it stays published. */
void
retract(hold &h)
{
	if (asked_for == &h)
		asked_for = nullptr;
	for (mode m : modes)
		for (scope s : scopes)
			if (h.published->in(m, s).since == 0)
				registry::store(h.published->in(m, s).depth, int64{0});
	if (!possessions::is_wanted(h))
		remove(h);
}

/* The lock manager may have raised an error when it was asked. */
void
forget_request()
{
	if (asked_for != nullptr && !asked_for->is_waited_for)
		retract(*asked_for);
}

void
refresh_or_remove(hold &h)
{
	possessions::refresh(h);
	if (!possessions::is_wanted(h))
		remove(h);
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
find(const lockable &what)
{
	hold *h = hold_table::find(what);

	if (h != nullptr)
		possessions::refresh(*h);
	return h;
}

/* The books of a lock, which are opened if there are none. Raises 53200. */
hold &
open_books(const lock_key &key)
{
	hold *h = find(key);

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
	forget_request();
	check_limit(key);
	command::expect_taking();

	hold &h = open_books(key);

	h.levels.reserve(hold_table::memory());
	foreign_holds -= h.is_foreign;
	h.is_foreign = false;
	return h;
}

/* Publishes that the lock is asked for. */
void
announce(hold &h, mode m, scope s)
{
	registry::hold_state &state = h.published->in(m, s);

	asked_for = &h;
	if (state.depth == 0)
		registry::store(state.depth, int64{1});
}

void
end_wait(hold &h)
{
	h.is_waited_for = false;
	registry::store(h.published->waiting_since, TimestampTz{0});
}

/* Publishes that the session waits, while wait() does, and what came of it: true or not nullptr. */
template <typename Wait>
auto
publish_wait(hold &h, const lock_key &key, Wait wait)
{
	decltype(wait()) granted = {};

	h.is_waited_for = true;
	registry::store(h.published->waiting_since, contention::begin_wait(key));
	PG_TRY();
	{
		granted = wait();
	}
	PG_CATCH();
	{
		contention::end_wait(contention::outcome_of_error());
		end_wait(h);
		retract(h);
		PG_RE_THROW();
	}
	PG_END_TRY();
	contention::end_wait(granted ? contention::outcome::granted : contention::outcome::timeout);
	end_wait(h);
	return granted;
}

/* Books a level that the lock manager has just granted. Never raises. */
void
book(hold &h, mode m, scope as, LOCALLOCK *entry)
{
	possessions::add_level(h, m, as, entry);
	asked_for = nullptr;
	any_was_taken = true;
	if (as == scope::transaction)
		return; /* its end, or its rollback, gives the level back */

	h.levels.push(m, command::current());
}

bool
book_if_taken(hold &h, mode m, scope as, LOCALLOCK *entry)
{
	if (entry != nullptr)
		book(h, m, as, entry);
	else
		retract(h);
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

/* Gives levels back that the books have forgotten. */
void
give_back_levels(hold &h, mode m, int64 count)
{
	h.in(m).seen_levels = 0;
	for (int64 i = 0; i < count; i++)
		manager::give_back(lock{h.what, m}, scope::session);
}

/* Gives the newest levels back. */
void
give_back(hold &h, mode m, int64 count)
{
	possessions::forget_levels(h, m, count);
	give_back_levels(h, m, count);
}

/* Gives back all of our levels in that mode, and says how many they were. */
int64
give_back_all(hold &h, mode m)
{
	int64 count = h.levels.count(m);

	if (count == 0)
		return 0;

	bool is_last = h.in(m).entry->nLocks == count;

	give_back(h, m, count);
	/* what the lock manager has just dropped need not be compared with it */
	if (is_last)
		possessions::end(h, m);
	else
		possessions::refresh(h, m);
	return count;
}

int64
give_back_all(hold &h)
{
	int64 given_back = 0;

	possessions::refresh(h);
	for (mode m : modes)
		given_back += give_back_all(h, m);
	if (!possessions::is_wanted(h))
		remove(h);
	return given_back;
}

} // namespace

void
check_limit(const lock_key &key)
{
	if (settings::max_holds == 0)
		return;

	hold *known = find(key);
	auto limit = static_cast<uint32>(settings::max_holds);
	auto count = [] { return hold_table::size() - foreign_holds; };

	if (known != nullptr && possessions::is_wanted(*known) && !known->is_foreign)
		return;
	if (count() >= limit)
		prune();
	if (count() < limit)
		return;
	ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					errmsg("could not acquire %s: the session holds too many locks",
						   describe_in_full(key)),
					errdetail("The session holds %u different locks, and \"pglock.max_holds\" "
							  "is %u.",
							  count(), limit),
					errhint("Release locks that are no longer needed, or have a superuser raise "
							"the limit.")));
}

bool
take(const lock_key &key, mode m, scope as)
{
	hold &h = reserve(key);

	announce(h, m, as);
	return book_if_taken(h, m, as, manager::take(lock{key, m}, as));
}

bool
wait(const lock_key &key, mode m, scope as, TimestampTz deadline)
{
	hold &h = reserve(key);

	announce(h, m, as);
	return book_if_taken(h, m, as, publish_wait(h, key, [&] {
							 return manager::wait(lock{key, m}, as, deadline);
						 }));
}

bool
wait_in_front(const lock_key &any, mode m, scope as, const waiting_function &wait)
{
	forget_request();

	/* the place in front is given back before the session holds anything: it does not count */
	hold &h = open_books(any);

	h.is_foreign = true;
	foreign_holds++;
	announce(h, m, as);

	bool is_taken = publish_wait(h, any, [&] { return wait.call(wait.argument); });

	retract(h);
	return is_taken;
}

void
undo(const lock_key &key, mode m, scope as)
{
	hold *h = find(key);

	if (h == nullptr || h->in(m).entry == nullptr)
		return;
	if (as == scope::session)
		give_back(*h, m, 1);
	else
		manager::give_back(lock{key, m}, scope::transaction);
	refresh_or_remove(*h);
	hold_table::trim();
}

std::optional<level>
newest(const lockable &what, std::optional<mode> only)
{
	hold *h = find(what);

	if (!only && h != nullptr && !h->levels.empty())
		only = h->levels.top();
	for (mode m : modes)
	{
		if (only.value_or(m) != m)
			continue;

		LOCALLOCK *entry = find_entry(h, {what, m});

		if (entry != nullptr && manager::session_levels(entry) > 0)
			return level{{what, m}, entry->nLocks == 1};
	}
	return std::nullopt;
}

void
give_back(const level &newest)
{
	hold *h = hold_table::find(newest.of);

	if (h == nullptr)
	{
		manager::give_back(newest.of, scope::session);
		return;
	}
	give_back(*h, newest.of.mode, 1);
	if (newest.is_last)
		possessions::end(*h, newest.of.mode);
	else
		possessions::refresh(*h, newest.of.mode);
	if (!possessions::is_wanted(*h))
		remove(*h);
	hold_table::trim();
}

bool
has_taken_any()
{
	return any_was_taken;
}

int64
levels(const lockable &what)
{
	hold *h = find(what);

	return h != nullptr ? levels(*h) : 0;
}

bool
has_levels()
{
	return hold_table::any([](hold &h) {
		possessions::refresh(h);
		return levels(h) > 0;
	});
}

int64
give_back_all(const lockable &what)
{
	hold *h = find(what);

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
give_back_failed()
{
	hold_table::for_each([](hold &h) {
		if (h.levels.empty())
			return;
		possessions::refresh(h);
		for (mode m : modes)
			give_back_levels(h, m, h.levels.remove_failed(m));
		refresh_or_remove(h);
	});
	hold_table::trim();
}

void
refresh_all()
{
	forget_request();
	if (hold_table::size() > 0)
		prune();
}

void
refresh_transaction()
{
	forget_request();
	possessions::for_each_of_transaction(refresh_or_remove);
	hold_table::trim();
}

int64 *
token_of(const lock_key &key)
{
	LOCALLOCK *entry = find_entry(find(key), {key, mode::exclusive});

	if (entry == nullptr)
		return nullptr;

	bool is_foreign = hold_table::find(key) == nullptr;
	hold &h = open_books(key);

	if (is_foreign)
		foreign_holds++;
	h.is_foreign |= is_foreign;
	if (h.in(mode::exclusive).entry == nullptr)
		possessions::begin(h, mode::exclusive, entry);
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
		possessions::refresh(h);
		for (mode m : modes)
			for (scope s : scopes)
			{
				const registry::record &published = *h.published;
				const registry::hold_state &state = published.in(m, s);

				if (state.since != 0)
					visit({h.what, published.has_name ? published.name : nullptr, m, s, state.depth,
						   state.since},
						  argument);
			}
	});
}
} // namespace pglock::holds
