/*
 * holds.cpp: this session's books.
 *
 * Order of work: what can fail comes first (room in the books), then the lock, then only stores
 * that can't fail. A failure in between leaves a hold in the books that is not held, which the next
 * look removes.
 */
#include "holds.hpp"

#include "level_stack.hpp"
#include "module.hpp"

namespace pglock::holds
{
namespace
{
/* What the books know of a lock in one mode. */
struct possession
{
	LOCALLOCK *entry;		   /* the lock manager's; nullptr: not held */
	TimestampTz session_since; /* 0: not held through pglock at that scope */
	TimestampTz transaction_since;
	int64 taken_by_command; /* of the session's levels */
};

/* What the books know of a lock. It lives in a hash table, and keeps its address. */
struct hold
{
	int64 lock_id; /* the hash key */
	char *name;	   /* as it is shown, in short_name if there is room; nullptr: none */
	char short_name[48];
	possession by_mode[2];
	level_stack levels;	 /* of session scope, taken through pglock */
	TimestampTz command; /* the start of the client's command that last took a level */

	possession &
	in(mode m)
	{
		return by_mode[static_cast<int>(m)];
	}
};
static_assert(std::is_trivially_destructible_v<hold>);

HTAB *table = nullptr;
MemoryContext memory = nullptr;
hold *found_last = nullptr; /* what is taken is often given back next */

/* The start of the last command of the client that took a level of session scope. */
TimestampTz last_taking_command = 0;

/* When the table has grown to this size, look for holds that are no longer held. */
constexpr long smallest_prune_size = 64;
long prune_size = smallest_prune_size;

uint32
hash_lock_id(const void *key, Size)
{
	uint64 id;

	/* ids that came from names are as good as random, others may be anything: Fibonacci hashing */
	memcpy(&id, key, sizeof(id));
	return static_cast<uint32>((id * UINT64CONST(0x9E3779B97F4A7C15)) >> 32);
}

void
create_table()
{
	HASHCTL control = {};

	if (memory == nullptr)
		memory = AllocSetContextCreate(TopMemoryContext, "pglock", ALLOCSET_DEFAULT_SIZES);
	control.keysize = sizeof(int64);
	control.entrysize = sizeof(hold);
	control.hash = hash_lock_id;
	control.hcxt = memory;
	table = hash_create("pglock holds", smallest_prune_size, &control,
						HASH_ELEM | HASH_FUNCTION | HASH_CONTEXT);
}

bool
is_held(hold &h)
{
	return h.in(mode::exclusive).entry != nullptr || h.in(mode::shared).entry != nullptr;
}

void
forget_levels(hold &h, mode m, int64 count)
{
	int64 &taken = h.in(m).taken_by_command;

	h.levels.remove(m, count);
	taken = Max(taken - count, 0);
}

/* Brings the books of a lock in one mode in line with the lock manager. */
void
refresh(hold &h, mode m)
{
	possession &held = h.in(m);
	int64 of_session = 0;

	if (held.entry == nullptr)
		return;
	if (manager::is_unbroken(held.entry, {h.lock_id, m}))
	{
		of_session = manager::session_levels(held.entry);
		if (of_session == held.entry->nLocks)
			held.transaction_since = 0;
	}
	else
		held.entry = nullptr;

	int64 ours = h.levels.count(m);

	/* what was given back behind our back was the newest */
	if (ours > of_session)
		forget_levels(h, m, ours - of_session);
	if (Min(ours, of_session) == 0)
		held.session_since = 0;
}

void
refresh(hold &h)
{
	for (mode m : modes)
		refresh(h, m);
}

void
remove(hold &h)
{
	h.levels.clear();
	if (h.name != nullptr && h.name != h.short_name)
		pfree(h.name);
	if (found_last == &h)
		found_last = nullptr;
	hash_search(table, &h.lock_id, HASH_REMOVE, nullptr);
}

void
refresh_or_remove(hold &h)
{
	refresh(h);
	if (!is_held(h))
		remove(h);
}

template <typename Function>
void
for_each_hold(Function function)
{
	HASH_SEQ_STATUS scan;

	if (table == nullptr)
		return;
	hash_seq_init(&scan, table);
	while (void *found = hash_seq_search(&scan))
		function(*static_cast<hold *>(found)); /* which may remove this one */
}

void
prune()
{
	for_each_hold(refresh_or_remove);
	prune_size = Max(smallest_prune_size, 2 * hash_get_num_entries(table));
}

/* Gives the memory of a table back that was large and is empty. */
void
shrink()
{
	if (table == nullptr || prune_size == smallest_prune_size || hash_get_num_entries(table) > 0)
		return;
	hash_destroy(table);
	table = nullptr;
	found_last = nullptr;
	prune_size = smallest_prune_size;
}

/* The books of that lock, as they were when last looked at; nullptr if there are none. */
hold *
find_stale(int64 lock_id)
{
	if (table == nullptr)
		return nullptr;
	if (found_last == nullptr || found_last->lock_id != lock_id)
		found_last = static_cast<hold *>(hash_search(table, &lock_id, HASH_FIND, nullptr));
	return found_last;
}

/* The books of that lock, in line with the lock manager; nullptr if there are none. */
hold *
find(int64 lock_id)
{
	hold *h = find_stale(lock_id);

	if (h != nullptr)
		refresh(*h);
	return h;
}

/* Raises 54000 if this lock would be one too many. */
void
check_limit(const lock_key &key)
{
	hold *known = find(key.lock_id);

	if (table == nullptr || (known != nullptr && is_held(*known)))
		return;
	if (hash_get_num_entries(table) >= settings::max_holds)
		prune();
	if (hash_get_num_entries(table) < settings::max_holds)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("could not acquire lock %s: the session holds too many locks", describe(key)),
			 errdetail("The session holds %ld different locks, and \"pglock.max_holds\" "
					   "is %d.",
					   hash_get_num_entries(table), settings::max_holds),
			 errhint("Release locks that are no longer needed, or have a superuser raise "
					 "the limit.")));
}

void
set_name(hold &h, std::string_view name)
{
	if (name.size() < sizeof(h.short_name))
	{
		memcpy(h.short_name, name.data(), name.size());
		h.short_name[name.size()] = '\0';
		h.name = h.short_name;
	}
	else
		h.name = shown_name(name, memory);
}

/* The books of a lock that is about to be taken, with room for one more level. */
hold &
reserve(const lock_key &key)
{
	bool found;

	if (settings::max_holds > 0)
		check_limit(key);
	if (table == nullptr)
		create_table();
	if (hash_get_num_entries(table) >= prune_size)
		prune();

	auto &h = *static_cast<hold *>(hash_search(table, &key.lock_id, HASH_ENTER, &found));

	if (found)
		refresh(h);
	else
	{
		h = hold{};
		h.lock_id = key.lock_id;
	}
	found_last = &h;
	if (h.name == nullptr && key.name.data() != nullptr)
		set_name(h, key.name);
	h.levels.reserve(memory);
	return h;
}

/* Books a level that the lock manager has just granted. Never raises. */
void
book(hold &h, mode m, scope as, LOCALLOCK *entry)
{
	possession &held = h.in(m);
	TimestampTz &since = as == scope::session ? held.session_since : held.transaction_since;
	TimestampTz command = GetCurrentStatementStartTimestamp();

	if (held.entry == nullptr)
		held.session_since = held.transaction_since = 0;
	manager::mark_unbroken(entry);
	held.entry = entry;
	if (since == 0)
		since = GetCurrentTimestamp();
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
	else if (!is_held(h))
		remove(h);
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

/*
 * Called when a transaction or subtransaction is rolled back. If that is so because the command of
 * the client that is running has failed, what it took at session scope is given back: the client
 * sees an error, and does not know what it holds. Errors that the command caught itself, and
 * rollbacks that were asked for, take nothing away.
 */
void
give_back_if_command_failed()
{
	TimestampTz command = GetCurrentStatementStartTimestamp();

	if (last_taking_command != command || command == 0) /* 0: no client's, a background worker's */
		return;
	/*
	 * A failed command has been left: no portal runs, nothing wants to add to its messages, and its
	 * transaction is not (yet) marked as to be rolled back.
	 */
	if (ActivePortal != nullptr || error_context_stack != nullptr ||
		TransactionBlockStatusCode() == 'E')
		return;
	for_each_hold([=](hold &h) {
		if (h.command != command)
			return;
		refresh(h);
		for (mode m : modes)
			give_back(h, m, h.in(m).taken_by_command);
		refresh_or_remove(h);
	});
}

void
at_transaction_end(XactEvent event, void *)
{
	if (event == XACT_EVENT_ABORT)
		give_back_if_command_failed();
}

void
at_subtransaction_end(SubXactEvent event, SubTransactionId, SubTransactionId, void *)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		give_back_if_command_failed();
}
} // namespace

bool
take(const lock_key &key, mode m, scope as)
{
	hold &h = reserve(key);

	return book_if_taken(h, m, as, manager::take({key.lock_id, m}, as));
}

bool
wait(const lock_key &key, mode m, scope as, TimestampTz deadline, manager::when_late late)
{
	hold &h = reserve(key);

	return book_if_taken(h, m, as, manager::wait({key.lock_id, m}, as, deadline, late));
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
	hold *h = find_stale(newest.of.lock_id);

	if (h == nullptr)
	{
		manager::give_back(newest.of, scope::session);
		return;
	}
	give_back(*h, newest.of.mode, 1);
	if (newest.is_last)
		h->in(newest.of.mode).entry = nullptr;
	if (!is_held(*h))
		remove(*h);
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

	for_each_hold([&](hold &h) {
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

	for_each_hold([&](hold &h) { total += give_back_all(h); });
	shrink();
	return total;
}

void
watch_transactions()
{
	RegisterXactCallback(at_transaction_end, nullptr);
	RegisterSubXactCallback(at_subtransaction_end, nullptr);
}

void
for_each_row(void (*visit)(const row &, void *), void *argument)
{
	for_each_hold([=](hold &h) {
		refresh(h);
		for (mode m : modes)
		{
			const possession &held = h.in(m);

			if (held.entry == nullptr)
				continue;

			int64 of_session = manager::session_levels(held.entry);
			int64 of_transaction = held.entry->nLocks - of_session;

			if (held.session_since != 0)
				visit({h.lock_id, h.name, m, scope::session, of_session, held.session_since},
					  argument);
			if (held.transaction_since != 0)
				visit({h.lock_id, h.name, m, scope::transaction, of_transaction,
					   held.transaction_since},
					  argument);
		}
	});
}
} // namespace pglock::holds
