/*
 * activity.hpp: what pg_stat_activity shows of sessions to the current user.
 *
 * A join with that view would cost more than all else that the view "locks" shows of a lock.
 */
#pragma once

#include "pg.hpp"

#include <span>

namespace pglock::activity
{
/* What is shown of one session, or of none. */
struct session
{
	const NameData *role; /* nullptr: there is none */
	const text *application_name;
	NullableDatum client_address; /* an inet */
};

/* Reads it anew, whatever the transaction has read of it before. May raise. */
class reader
{
  public:
	/* What the sessions do at this moment, in the current memory context. */
	void begin();

	/* What is shown of the session of that process, which may have ended: then nothing. */
	session of(int pid) const;

	/* The session's status, which is not for everybody's eyes; nullptr: it has ended. */
	const PgBackendStatus *status_of(int pid) const;

  private:
	struct entry
	{
		const PgBackendStatus *status;
		int number; /* for the functions that show statistics of sessions */
	};

	const entry *find(int pid) const;

	std::span<entry> entries; /* by pid */
};
} // namespace pglock::activity
