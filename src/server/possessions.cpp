/*
 * possessions.cpp: the books of one lock, held against the lock manager, and what is published of
 * it.
 */
#include "possessions.hpp"

#include "slot_queue.hpp"

namespace pglock::possessions
{
namespace
{
/* Those with levels of transaction scope. */
dlist_head of_transaction = DLIST_STATIC_INIT(of_transaction);

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

/* Publishes whether a lock is also held in that mode at a scope at which only built-ins took it. */
void
note_builtins(hold &h, mode m, int64 of_session, int64 of_transaction)
{
	bool &published = h.published->has_builtins[static_cast<int>(m)];
	bool has_builtins = (of_session > 0 && h.published->in(m, scope::session).since == 0) ||
						(of_transaction > 0 && h.published->in(m, scope::transaction).since == 0);

	if (has_builtins != published)
		registry::store(published, has_builtins);
}

/* Notes whether a lock has levels of transaction scope in that mode, whoever took them. */
void
note_transaction_levels(hold &h, mode m, bool has_some)
{
	h.in(m).has_transaction_levels = has_some;
	has_some =
		h.in(mode::exclusive).has_transaction_levels || h.in(mode::shared).has_transaction_levels;
	if (has_some == h.is_of_transaction)
		return;
	h.is_of_transaction = has_some;
	if (has_some)
		dlist_push_tail(&of_transaction, &h.of_transaction);
	else
		dlist_delete(&h.of_transaction);
}

} // namespace

bool
is_wanted(const hold &h)
{
	return h.in(mode::exclusive).entry != nullptr || h.in(mode::shared).entry != nullptr ||
		   h.is_waited_for;
}

void
begin(hold &h, mode m, LOCALLOCK *entry)
{
	manager::mark_unbroken(entry);
	h.in(m) = {};
	h.in(m).entry = entry;
	note_transaction_levels(h, m, entry->nLocks > manager::session_levels(entry));
}

void
end(hold &h, mode m)
{
	h.in(m).entry = nullptr;
	note_transaction_levels(h, m, false);
	for (scope s : scopes)
		set_depth(h, m, s, 0);
	note_builtins(h, m, 0, 0);
	if (m == mode::exclusive)
		registry::store(h.published->token, int64{0});
	if (h.what.slot > 0)
		slot_queue::wake(h.what.lock_id);
}

void
add_level(hold &h, mode m, scope as, LOCALLOCK *entry)
{
	registry::hold_state &state = h.published->in(m, as);

	if (h.in(m).entry == nullptr)
		begin(h, m, entry);

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
	note_builtins(h, m, of_session, entry->nLocks - of_session);
	held.seen_levels = 0;
	if (as == scope::transaction)
		note_transaction_levels(h, m, true);
}

void
forget_levels(hold &h, mode m, int64 count)
{
	h.levels.remove(m, count);
	h.in(m).seen_levels = 0;
}

void
refresh(hold &h, mode m)
{
	possession &held = h.in(m);

	if (held.entry == nullptr)
		return;
	if (!manager::is_unbroken(held.entry, {h.what, m}))
	{
		forget_levels(h, m, h.levels.count(m));
		end(h, m);
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
	note_builtins(h, m, of_session, of_transaction);
	note_transaction_levels(h, m, of_transaction > 0);
	held.seen_levels = held.entry->nLocks;
	held.seen_of_session = of_session;
}

void
refresh(hold &h)
{
	for (mode m : modes)
		refresh(h, m);
}

bool
has_any_of_transaction()
{
	return !dlist_is_empty(&of_transaction);
}

void
for_each_of_transaction(void (*visit)(hold &))
{
	for (dlist_node *node = of_transaction.head.next, *next; node != &of_transaction.head;
		 node = next)
	{
		next = node->next;
		visit(*reinterpret_cast<hold *>(reinterpret_cast<char *>(node) -
										offsetof(hold, of_transaction)));
	}
}

void
leave_transaction(hold &h)
{
	for (mode m : modes)
		note_transaction_levels(h, m, false);
}
} // namespace pglock::possessions
