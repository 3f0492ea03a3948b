/*
 * standby.cpp: what is refused on a hot standby.
 */
#include "standby.hpp"

#include "module.hpp"
#include "pg.hpp"

namespace pglock::standby
{
bool
is_off_limits()
{
	return RecoveryInProgress() && !settings::allow_on_standby;
}

void
refuse(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION), errmsg("cannot %s on a standby", what),
			 errdetail("A standby does not know the locks that sessions of the primary hold."),
			 errhint("Connect to the primary. For the locks of this standby's own sessions, "
					 "set \"pglock.allow_on_standby\" to on.")));
}
} // namespace pglock::standby
