/*
 * lock_tag.hpp: what advisory locks of the lock manager stand for: the fourth number of their tags.
 *
 * The functions for advisory locks have the first two. All others are out of their reach, but for
 * those that release whatever the session holds.
 */
#pragma once

#include "pg.hpp"

namespace pglock
{
/* So many slots a key can have, as locks or as leases. */
constexpr int32 max_slots = 16000;

namespace lock_space
{
constexpr uint16 key = 1;	   /* a bigint */
constexpr uint16 integers = 2; /* two integers in its place */
constexpr uint16 lease_gate = 4;
constexpr uint16 slot_gate = 5;
constexpr uint16 lease_slots = 0x4000; /* plus the number of the slot */
constexpr uint16 slots = 0x8000;
} // namespace lock_space

inline LOCKTAG
advisory_tag(int64 id, uint16 space)
{
	LOCKTAG tag = {};

	/* the layout of pg_advisory_lock(bigint), from lockfuncs.c */
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, static_cast<uint32>(static_cast<uint64>(id) >> 32),
						 static_cast<uint32>(id), space);
	return tag;
}

inline int64
id_of(const LOCKTAG &tag)
{
	return static_cast<int64>(static_cast<uint64>(tag.locktag_field2) << 32 | tag.locktag_field3);
}

/* What a session can lock: a key, or a slot of a key. */
struct lockable
{
	int64 lock_id;
	int32 slot; /* from 1; or one of those below */

	bool operator==(const lockable &) const = default;

	LOCKTAG
	tag() const
	{
		return advisory_tag(lock_id, space());
	}

	uint16 space() const;
};

constexpr int32 no_slot = 0;   /* the key itself */
constexpr int32 any_slot = -1; /* the place in front of those who wait for one */

inline uint16
lockable::space() const
{
	return slot == no_slot	  ? lock_space::key
		   : slot == any_slot ? lock_space::slot_gate
							  : static_cast<uint16>(lock_space::slots + slot);
}

/* The slot that a tag means; that of a lease or of two integers is none. */
inline int32
slot_of(const LOCKTAG &tag)
{
	uint16 space = tag.locktag_field4;

	return space == lock_space::slot_gate ? any_slot
		   : space > lock_space::slots	  ? space - lock_space::slots
										  : no_slot;
}
} // namespace pglock
