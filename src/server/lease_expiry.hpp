/*
 * lease_expiry.hpp: when a lease expires, by steady_clock::now().
 */
#pragma once

#include "lease_clock.hpp"
#include "lease_rows.hpp"
#include "steady_clock.hpp"

namespace pglock::lease_expiry
{
inline int64
end_of(const lease_row &row, const lease_clock::run &current)
{
	if (row.expires == 0 || row.run == current.id)
		return row.expires;
	/* what was renewed before the server was restarted may be lost: it has its whole time again */
	return current.began + row.time_to_live();
}

inline bool
is_expired(const lease_row &row, const lease_clock::run &current)
{
	return end_of(row, current) <= steady_clock::now();
}
} // namespace pglock::lease_expiry
