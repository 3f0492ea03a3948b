/*
 * leases.hpp: the rules for taking, renewing, checking and ending leases.
 *
 * A lease belongs to whoever knows its token, over whatever connection, and ends by release, by
 * being revoked, or when another takes it over after it has expired. It is open to the role that
 * took it, members of that role and superusers; others get 42501.
 */
#pragma once

#include "key.hpp"
#include "lease_clock.hpp"
#include "lease_rows.hpp"

namespace pglock::leases
{
/* A lease that is wanted. */
struct wanted
{
	int64 ttl; /* in microseconds */
	TimestampTz deadline;
	const text *holder; /* as it is shown; nullptr: none */
	int32 slots;
};

/* The token of the lease; 0: it was not to be had in time. */
int64 acquire(const lock_key &key, const wanted &how);

/*
 * Takes a lease, or raises 55P03. It waits without a snapshot if `call`, the procedure call it is
 * made for, allows it.
 */
int64 acquire_or_raise(const lock_key &key, const wanted &how, FunctionCallInfo call);

constexpr int64 same_ttl = 0;

/* The lease has its whole time again, or another. False: it is not there, or was taken over. */
bool renew(const lock_key &key, int64 token, int64 ttl);

/* The same, whatever the key. */
bool renew(int64 token, int64 ttl);

/* False: it is not there, or was taken over. */
bool release(const lock_key &key, int64 token);

/* Nobody takes the lease over before this transaction ends. Raises 55000 if it is not held. */
void check(const lock_key &key, int64 token);

/* Is the lease there, and not expired. */
bool holds(const lock_key &key, int64 token);

/* Ends all leases of the key that had not expired; how many they were. */
int32 revoke(const lock_key &key);

/* When a lease expires, by lease_clock::now(). */
int64 end_of(const lease_row &row, const lease_clock::run &current);
} // namespace pglock::leases
