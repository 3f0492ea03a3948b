/*
 * leases.cpp: the rules for renewing, checking and ending leases.
 *
 * What has become of a lease is judged with the locks held that make the answer last: the lock of
 * the slot for those who release and check, that of the buffer for who renews.
 *
 * A renewal need not survive a crash, after which each lease has its whole time again, unless that
 * time has become longer. Until it is known that this would survive, all who renew the lease make
 * sure of it, since what was lengthened may not have been answered.
 */
#include "leases.hpp"

#include "deadline.hpp"
#include "durability.hpp"
#include "lease_commit.hpp"
#include "lease_expiry.hpp"
#include "lease_locks.hpp"
#include "lease_queue.hpp"
#include "waiting.hpp"

namespace pglock::leases
{
namespace
{
using lease_expiry::end_of;
using lease_expiry::is_expired;

/* Raises 42501 unless the user may use the lease. */
void
check_is_open(const lock_key &key, const lease_row &row)
{
	if (!has_privs_of_role(GetUserId(), row.role))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("permission denied for lease %s", describe(key)),
						errdetail("It was taken by another role.")));
}

/* The rule of pg_terminate_backend(). */
bool
may_revoke(const lease_row &row)
{
	return has_privs_of_role(GetUserId(), row.role) ||
		   (has_privs_of_role(GetUserId(), ROLE_PG_SIGNAL_BACKEND) && !superuser_arg(row.role));
}

/* The lease of that token, if it is one of that key; raises 42501. */
found_lease
find(lease_rows &rows, const lock_key &key, int64 token)
{
	found_lease found = rows.of_token(token);

	if (found.state == lease_state::none || found.row.key_id != key.lock_id)
		return {};
	check_is_open(key, found.row);
	return found;
}

found_lease
find(const lock_key &key, int64 token)
{
	lease_rows rows;
	found_lease found = find(rows, key, token);

	rows.close();
	return found;
}

/* Locks the slot of a lease until the transaction ends. */
void
lock_slot(const char *doing, const lock_key &key, int32 slot, lease_locks::use what_for)
{
	naming_context naming(doing, key);
	heavyweight_lock lock = lease_locks::slot(key.lock_id, slot, what_for);

	if (manager::take(lock, scope::transaction) == nullptr)
		manager::wait(lock, scope::transaction, deadline::never);
	lease_queue::wake_at_end(key.lock_id);
	naming.end();
}

/* Deletes the lease of that token, whose slot is locked, and says what it was. */
found_lease
remove(int64 token)
{
	lease_rows rows;
	found_lease found = rows.of_token(token);

	if (found.state != lease_state::none)
		rows.remove(found);
	rows.close();
	return found;
}

[[noreturn]] void
raise_not_held(const lock_key &key, int64 token)
{
	ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("lease %s is not held with token " INT64_FORMAT, describe(key), token),
					errdetail("It was released, revoked, or taken over after it had expired."),
					errhint("Do not write what it was meant to protect. Acquire it again.")));
}
} // namespace

bool
renew(const lock_key &key, int64 token, int64 ttl)
{
	renewals renewing;
	lease_rows rows;
	bool is_renewed = renewing.renew(rows, find(rows, key, token), ttl);

	rows.close();
	renewing.make_durable();
	return is_renewed;
}

bool
renewals::renew(int64 token, int64 ttl)
{
	lease_rows rows;
	found_lease found = rows.of_token(token);

	if (found.state != lease_state::none)
		check_is_open(key_of_id(found.row.key_id), found.row);

	bool is_renewed = renew(rows, found, ttl);

	rows.close();
	return is_renewed;
}

bool
renewals::renew(lease_rows &rows, const found_lease &lease, int64 ttl)
{
	lease_clock::run run = lease_clock::current_run();
	TimestampTz time = GetCurrentTimestamp();
	lengthened_lease renewed = {lease, 0};
	bool ends_sooner = false;

	if (lease.state == lease_state::none)
		return false;

	bool is_renewed = rows.change(lease, [&](lease_row &row) {
		int64 end = end_of(row, run);
		int64 time_to_live = ttl != same_ttl ? ttl : row.time_to_live();

		/* 0: claimed by a takeover */
		if (row.expires == 0)
			return false;
		renewed.durable_ttl = Max(row.ttl, 0);
		row.ttl = time_to_live <= row.ttl ? time_to_live : -time_to_live;
		row.expires = steady_clock::now() + time_to_live;
		row.run = run.id;
		row.renewed_at = time;
		ends_sooner = row.expires < end;
		renewed.left.row = row;
		return true;
	});

	if (is_renewed && renewed.left.row.ttl < 0)
	{
		auto copy = static_cast<lengthened_lease *>(palloc(sizeof(lengthened_lease)));

		*copy = renewed;
		lengthened = lappend(lengthened, copy);
		logged_up_to = XactLastRecEnd;
	}
	if (ends_sooner)
		lease_queue::wake(lease.row.key_id);
	return is_renewed;
}

void
renewals::make_durable()
{
	MemoryContext context = CurrentMemoryContext;

	if (lengthened == NIL)
		return;
	PG_TRY();
	{
		durability::await(logged_up_to, "the renewal of a lease");
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		undo();
		PG_RE_THROW();
	}
	PG_END_TRY();
	settle();
}

/* Others need not make sure of it any more. */
void
renewals::settle()
{
	lease_rows rows;
	ListCell *cell;

	foreach (cell, lengthened)
	{
		auto lease = static_cast<const lengthened_lease *>(lfirst(cell));

		rows.change(lease->left, [&](lease_row &row) {
			/* another may have lengthened it further */
			if (row.ttl != lease->left.row.ttl)
				return false;
			row.ttl = row.time_to_live();
			return true;
		});
	}
	rows.close();
}

/* Leaves those alone that others have renewed since, and may count on. */
void
renewals::undo()
{
	lease_rows rows;
	ListCell *cell;

	foreach (cell, lengthened)
	{
		auto lease = static_cast<const lengthened_lease *>(lfirst(cell));
		bool is_undone = rows.change(lease->left, [&](lease_row &row) {
			if (lease->durable_ttl == 0 || row.ttl != lease->left.row.ttl ||
				row.expires != lease->left.row.expires)
				return false;
			row.ttl = lease->durable_ttl;
			row.expires = steady_clock::now() + row.ttl;
			return true;
		});

		if (is_undone)
			lease_queue::wake(lease->left.row.key_id);
	}
	rows.close();
}

bool
release(const lock_key &key, int64 token)
{
	found_lease found = find(key, token);

	if (found.state == lease_state::none)
		return false;
	lock_slot("releasing lease", key, found.row.slot, lease_locks::use::release);

	lease_commit::release release;

	found = remove(token);
	release.end();
	return found.state != lease_state::none;
}

void
check(const lock_key &key, int64 token)
{
	lease_rows rows;
	found_lease found = find(rows, key, token);

	if (found.state != lease_state::none)
	{
		lock_slot("checking lease", key, found.row.slot, lease_locks::use::check);
		found = rows.again(found);
	}
	rows.close();
	/* one that was claimed by a takeover, which was then rolled back, had expired */
	if (found.state == lease_state::none || found.row.expires == 0)
		raise_not_held(key, token);
}

bool
holds(const lock_key &key, int64 token)
{
	found_lease found = find(key, token);

	return found.state != lease_state::none && !is_expired(found.row, lease_clock::current_run());
}

int32
revoke(const lock_key &key)
{
	lease_clock::run run = lease_clock::current_run();
	List *leases = NIL;
	lease_rows rows;
	ListCell *cell;
	int32 revoked = 0;

	/* also those that have expired: as long as nobody has taken them over, they can be renewed */
	rows.for_each_of_key(key.lock_id, [&](const shown_lease &lease) {
		if (!may_revoke(lease.row))
		{
			if (is_expired(lease.row, run))
				return;
			check_is_open(key, lease.row);
		}

		auto copy = static_cast<lease_row *>(palloc(sizeof(lease_row)));

		*copy = lease.row;
		leases = lappend(leases, copy);
	});
	rows.close();
	foreach (cell, leases)
	{
		auto lease = static_cast<const lease_row *>(lfirst(cell));
		bool had_expired = is_expired(*lease, run);

		lock_slot("revoking lease", key, lease->slot, lease_locks::use::release);

		found_lease found = remove(lease->token);

		if (found.state != lease_state::none && (!had_expired || !is_expired(found.row, run)))
			revoked++;
	}
	/* unlike one that is released, its holder goes on with it if that is lost in a crash */
	if (leases != NIL)
		ForceSyncCommit();
	return revoked;
}
} // namespace pglock::leases
