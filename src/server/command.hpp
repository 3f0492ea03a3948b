/*
 * command.hpp: the client's command: which one runs, and whether it has failed.
 *
 * A command is what the client is told about as one: the string of a simple query; in the extended
 * protocol one statement, which is a portal, in however many portions it is fetched. It is complete
 * when the server has sent its CommandComplete; a string, the one of its last statement. What fails
 * later, as the commit at the end of a pipeline may, does not make it fail.
 *
 * What runs when a transaction is committed without a command for it, as deferred triggers do at
 * the end of a pipeline, is a command of its own.
 */
#pragma once

#include "pg.hpp"

namespace pglock::command
{
/* Two commands of a session have different ids, however they are interleaved; an older one's is
 * less. 0: none, as in a background worker. */
using id = TimestampTz;

/* To be called when a statement begins that may be the client's own. */
void begin();

/* The command that runs. */
id current();

/* May the command still take anything; the older ones of the same transaction may. */
bool may_go_on(id command);

/*
 * For the callbacks of a transaction or subtransaction that is rolled back: is it because the
 * client's command has failed, as opposed to errors that the command caught and rollbacks that were
 * asked for.
 */
bool has_failed();

/* The failed command, and what its commit ran; either may be 0. Needs has_failed(). */
struct failure
{
	id statement;
	id commit;
};
failure failed();
} // namespace pglock::command
