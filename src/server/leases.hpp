/*
 * leases.hpp: the rules for renewing, checking and ending leases; for taking them see
 * lease_acquire.
 *
 * A lease belongs to whoever knows its token, over whatever connection, and ends by release, by
 * being revoked, or when another takes it over after it has expired. It is open to the role that
 * took it, members of that role and superusers; others get 42501.
 */
#pragma once

#include "key.hpp"
#include "lease_rows.hpp"

namespace pglock::leases
{
constexpr int64 same_ttl = 0;

/* The lease has its whole time again, or another. False: it is not there, or was taken over. */
bool renew(const lock_key &key, int64 token, int64 ttl);

/* Renewals that are answered together. */
class renewals
{
  public:
	/* The same, whatever the key. A crash may undo it until make_durable(). */
	bool renew(int64 token, int64 ttl);

	bool renew(lease_rows &rows, const found_lease &lease, int64 ttl);

	/*
	 * What was renewed is safe from crashes and promotions, as far as that is needed. Raises 57014
	 * if a cancel ends a wait for standbys; then no lease lasts longer than before.
	 */
	void make_durable();

  private:
	/* A lease as it was left, and the ttl that it had before, if that was known to be durable. */
	struct lengthened_lease
	{
		found_lease left;
		int64 durable_ttl; /* 0: it was not known */
	};

	void settle();
	void undo();

	XLogRecPtr logged_up_to = InvalidXLogRecPtr;
	List *lengthened = NIL;
};
static_assert(std::is_trivially_destructible_v<renewals>);

/* False: it is not there, or was taken over. */
bool release(const lock_key &key, int64 token);

/* Nobody takes the lease over before this transaction ends. Raises 55000 if it is not held. */
void check(const lock_key &key, int64 token);

/* Is the lease there, and not expired. */
bool holds(const lock_key &key, int64 token);

/* Ends all leases of the key. How many they were, but for those that had expired. */
int32 revoke(const lock_key &key);
} // namespace pglock::leases
