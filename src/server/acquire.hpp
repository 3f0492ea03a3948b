/*
 * acquire.hpp: the rules for taking locks and giving them back.
 */
#pragma once

#include "confirmation.hpp"
#include "key.hpp"
#include "lock.hpp"

#include <optional>
#include <span>

namespace pglock
{
/* How a lock is to be taken. */
struct request
{
	pglock::mode mode;
	pglock::scope scope;
	TimestampTz deadline; /* the end of waiting, or one of those in deadline.hpp */
};

/* Raises what is wrong with a request, and warns if it will be held for one statement only. */
void check_may_acquire(const lock_key &key, const request &how);

/*
 * Gets a procedure ready to wait, without a snapshot at session scope if its call allows that, and
 * warns of what it does not; see waiting.hpp for the noun.
 */
void get_ready_to_wait(const char *noun, const lock_key &key, const request &how,
					   FunctionCallInfo call);

/* Raises 55P03: a lock, or any slot of a key, was not to be had in time. */
[[noreturn]] void raise_timeout(const lock_key &key);

/* What confirm() does where it is wanted. */
void confirm_taken(std::span<const lock_key> keys, const request &how);

/*
 * Has it confirmed, if that is wanted, that this server is still the primary after the locks were
 * taken, or gives them back and raises why not.
 */
inline void
confirm(std::span<const lock_key> keys, const request &how)
{
	if (confirmation::is_wanted())
		confirm_taken(keys, how);
}

/* Takes a lock. False: it was not to be had in time, and nothing was taken. */
bool acquire(const lock_key &key, const request &how);

/*
 * Takes all locks or none, in the order of their ids, whatever is raised half way. Sorts `keys` and
 * drops those that are there twice.
 */
bool acquire_all(std::span<lock_key> keys, const request &how);

/*
 * Takes a lock, or raises 55P03. At session scope it waits without a snapshot if `call`, the
 * procedure call it is made for, allows it.
 */
void lock_or_raise(const lock_key &key, const request &how, FunctionCallInfo call);

/*
 * Gives back the newest level that this session holds at session scope, in mode `only` if given.
 * False: there is none.
 */
bool release(const lock_key &key, std::optional<mode> only);

/* Gives back the levels of session scope that were taken through pglock, and says how many. */
int64 release_all();
int64 release_all(std::span<lock_key> keys);
} // namespace pglock
