/*
 * lease_locks.cpp: what excludes whom, and who waits for whom, where leases are concerned.
 */
#include "lease_locks.hpp"

namespace pglock::lease_locks
{
namespace
{
/* The fourth number of a tag; the functions for advisory locks have 1 and 2. */
constexpr uint16 gate_space = 4;
constexpr uint16 first_slot_space = 0x4000;

LOCKTAG
tag_of(int64 key_id, uint16 space)
{
	LOCKTAG tag = {};
	auto id = static_cast<uint64>(key_id);

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, static_cast<uint32>(id >> 32), static_cast<uint32>(id),
						 space);
	return tag;
}

LOCKMODE
lockmode_for(use what_for)
{
	switch (what_for)
	{
		case use::check:
			return RowShareLock;
		case use::release:
			return ShareUpdateExclusiveLock;
		case use::take:
			break;
	}
	return ExclusiveLock;
}
} // namespace

heavyweight_lock
gate(int64 key_id)
{
	return {tag_of(key_id, gate_space), ExclusiveLock};
}

heavyweight_lock
open_gate(int64 key_id)
{
	return {tag_of(key_id, gate_space), ShareLock};
}

heavyweight_lock
slot(int64 key_id, int32 number, use what_for)
{
	return {tag_of(key_id, static_cast<uint16>(first_slot_space + number)), lockmode_for(what_for)};
}

} // namespace pglock::lease_locks
