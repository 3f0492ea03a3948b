/*
 * visibility.hpp: whose sessions' data the current user may see.
 */
#pragma once

#include "pg.hpp"

namespace pglock
{
/* What is shown instead of what may not be seen. */
constexpr const char *hidden = "<insufficient privilege>";

/* May the current user see the data of that role's sessions: the rule of pg_stat_activity. */
inline bool
may_see(Oid role)
{
	return (OidIsValid(role) && has_privs_of_role(GetUserId(), role)) ||
		   has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
}
} // namespace pglock
