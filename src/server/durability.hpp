/*
 * durability.hpp: what must not be lost by a crash or a promotion, though no commit waits for it.
 */
#pragma once

#include "pg.hpp"

namespace pglock::durability
{
/* Are there synchronous standbys to wait for. */
bool has_standbys();

/* Have synchronous standbys, as many as are wanted, confirmed the log up to there. */
bool is_confirmed(XLogRecPtr logged_up_to);

/* Would this session have to wait for synchronous standbys to confirm the log up to there. */
bool waits_for_standbys(XLogRecPtr logged_up_to);

/*
 * Waits until what was logged up to there is where a commit would want it with synchronous_commit
 * on, whatever the caller has set. Raises 57014 if a cancel ends the wait for standbys; `what` was
 * to be made durable.
 */
void await(XLogRecPtr logged_up_to, const char *what);

/* The same, until `deadline` at the latest: false if that has passed before. */
bool await_until(XLogRecPtr logged_up_to, const char *what, TimestampTz deadline);
} // namespace pglock::durability
