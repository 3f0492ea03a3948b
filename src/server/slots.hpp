/*
 * slots.hpp: the rules for taking slots.
 *
 * A key has as many slots as whoever asks for one says: never are more of them held than the
 * largest number that is asked for, and each gets one within its own. They are given back as locks
 * are.
 */
#pragma once

#include "acquire.hpp"

namespace pglock::slots
{
/* Takes one of the slots of a key; 0: none was to be had in time. */
int32 acquire(const lock_key &key, int32 slots, const request &how);

/* Takes a slot, or raises 55P03; see lock_or_raise(). */
int32 acquire_or_raise(const lock_key &key, int32 slots, const request &how, FunctionCallInfo call);
} // namespace pglock::slots
