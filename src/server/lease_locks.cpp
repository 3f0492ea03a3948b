/*
 * lease_locks.cpp: what excludes whom, and who waits for whom, where leases are concerned.
 */
#include "lease_locks.hpp"

namespace pglock::lease_locks
{
namespace
{
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
	return {advisory_tag(key_id, lock_space::lease_gate), ExclusiveLock};
}

heavyweight_lock
open_gate(int64 key_id)
{
	return {advisory_tag(key_id, lock_space::lease_gate), ShareLock};
}

heavyweight_lock
slot(int64 key_id, int32 number, use what_for)
{
	auto space = static_cast<uint16>(lock_space::lease_slots + number);

	return {advisory_tag(key_id, space), lockmode_for(what_for)};
}

} // namespace pglock::lease_locks
