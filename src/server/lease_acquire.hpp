/*
 * lease_acquire.hpp: the rules for taking leases.
 */
#pragma once

#include "key.hpp"

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
} // namespace pglock::leases
