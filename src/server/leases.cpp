/*
 * leases.cpp: the rules for renewing, checking and ending leases.
 *
 * What has become of a lease is judged with the locks held that make the answer last: the lock of
 * the slot for those who release and check, that of the buffer for who renews.
 *
 * A renewal need not survive a crash, after which each lease has its whole time again, unless that
 * time has become longer.
 */
#include "leases.hpp"

#include "deadline.hpp"
#include "durability.hpp"
#include "lease_commit.hpp"
#include "lease_expiry.hpp"
#include "lease_locks.hpp"
#include "lease_queue.hpp"
#include "waiting.hpp"

#include <utility>

namespace pglock::leases
{
namespace
{
using lease_expiry::end_of;
using lease_expiry::is_expired;

/* Where the log ends that says of leases of this session's renewals that they last longer. */
XLogRecPtr lengthened_up_to = InvalidXLogRecPtr;

/* Raises 42501 unless the user may use the lease. */
void
check_is_open(const lock_key &key, const lease_row &row)
{
	if (!has_privs_of_role(GetUserId(), row.role))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("permission denied for lease %s", describe(key)),
						errdetail("It was taken by another role.")));
}

void
check_may_revoke(const lock_key &key, const lease_row &row)
{
	/* the rule of pg_terminate_backend() */
	if (!has_privs_of_role(GetUserId(), ROLE_PG_SIGNAL_BACKEND) || superuser_arg(row.role))
		check_is_open(key, row);
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

/* Deletes the lease of that token, whose slot is locked. False: it is not there any more. */
bool
remove(int64 token)
{
	lease_commit::release release;
	lease_rows rows;
	found_lease found = rows.of_token(token);

	if (found.state != lease_state::none)
		rows.remove(found);
	rows.close();
	release.end();
	return found.state != lease_state::none;
}

[[noreturn]] void
raise_not_held(const lock_key &key, int64 token)
{
	ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("lease %s is not held with token " INT64_FORMAT, describe(key), token),
					errdetail("It was released, revoked, or taken over after it had expired."),
					errhint("Do not write what it was meant to protect. Acquire it again.")));
}

bool
renew(lease_rows &rows, const found_lease &lease, int64 ttl)
{
	lease_clock::run run = lease_clock::current_run();
	TimestampTz time = GetCurrentTimestamp();
	bool ends_sooner = false;
	bool is_lengthened = false;

	if (lease.state == lease_state::none)
		return false;

	bool is_renewed = rows.change(lease, [&](lease_row &row) {
		int64 end = end_of(row, run);

		/* 0: claimed by a takeover */
		if (row.expires == 0)
			return false;
		is_lengthened = ttl > row.ttl;
		row.ttl = ttl != same_ttl ? ttl : row.ttl;
		row.expires = steady_clock::now() + row.ttl;
		row.run = run.id;
		row.renewed_at = time;
		ends_sooner = row.expires < end;
		return true;
	});

	if (is_lengthened)
		lengthened_up_to = XactLastRecEnd;
	if (ends_sooner)
		lease_queue::wake(lease.row.key_id);
	return is_renewed;
}
} // namespace

bool
renew(const lock_key &key, int64 token, int64 ttl)
{
	lease_rows rows;
	bool is_renewed = renew(rows, find(rows, key, token), ttl);

	rows.close();
	make_renewals_durable();
	return is_renewed;
}

bool
renew(int64 token, int64 ttl)
{
	lease_rows rows;
	found_lease found = rows.of_token(token);

	if (found.state != lease_state::none)
		check_is_open(key_of_id(found.row.key_id), found.row);

	bool is_renewed = renew(rows, found, ttl);

	rows.close();
	return is_renewed;
}

void
make_renewals_durable()
{
	/* once: what could not be made durable was not answered */
	durability::await(std::exchange(lengthened_up_to, InvalidXLogRecPtr), "the renewal of a lease");
}

bool
release(const lock_key &key, int64 token)
{
	found_lease found = find(key, token);

	if (found.state == lease_state::none)
		return false;
	lock_slot("releasing lease", key, found.row.slot, lease_locks::use::release);
	return remove(token);
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

	rows.for_each_of_key(key.lock_id, [&](const shown_lease &lease) {
		if (is_expired(lease.row, run))
			return;
		check_may_revoke(key, lease.row);

		auto copy = static_cast<lease_row *>(palloc(sizeof(lease_row)));

		*copy = lease.row;
		leases = lappend(leases, copy);
	});
	rows.close();
	foreach (cell, leases)
	{
		auto lease = static_cast<const lease_row *>(lfirst(cell));

		lock_slot("revoking lease", key, lease->slot, lease_locks::use::release);
		revoked += remove(lease->token) ? 1 : 0;
	}
	return revoked;
}
} // namespace pglock::leases
