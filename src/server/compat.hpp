/*
 * compat.hpp: what differs between the versions of PostgreSQL.
 *
 * The only file with #if on PG_VERSION_NUM; the others read as if there were one PostgreSQL.
 */
#pragma once

#include "pg.hpp"

#if PG_VERSION_NUM < 150000
#error postgres_lock needs PostgreSQL 15 or later
#endif

namespace pglock::compat
{
inline LockAcquireResult
lock_acquire(const LOCKTAG &tag, LOCKMODE mode, bool session, bool no_wait, LOCALLOCK **local)
{
#if PG_VERSION_NUM >= 180000
	return LockAcquireExtended(&tag, mode, session, no_wait, true, local, false);
#else
	return LockAcquireExtended(&tag, mode, session, no_wait, true, local);
#endif
}

inline bool
lock_held_by_me(const LOCKTAG &tag, LOCKMODE mode)
{
#if PG_VERSION_NUM >= 170000
	return LockHeldByMe(&tag, mode, false);
#else
	return LockHeldByMe(&tag, mode);
#endif
}

/* 0: finite, 1: infinity, -1: -infinity; intervals are always finite before 17 */
inline int
interval_infinity([[maybe_unused]] const Interval *interval)
{
#if PG_VERSION_NUM >= 170000
	return INTERVAL_IS_NOEND(interval) ? 1 : INTERVAL_IS_NOBEGIN(interval) ? -1 : 0;
#else
	return 0;
#endif
}

} // namespace pglock::compat
