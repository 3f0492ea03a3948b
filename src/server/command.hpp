/*
 * command.hpp: the client's command: which one runs, and whether it has failed.
 *
 * A command is what the client is told about as one: the string of a simple query; in the extended
 * protocol one statement, which is a portal, in however many portions it is fetched. It is complete
 * when the server has sent its CommandComplete; a string, the one of its last statement. What fails
 * later, as the commit at the end of a pipeline may, does not make it fail. But a statement that
 * was fetched in part fails with the transaction or subtransaction it belongs to, whatever failed
 * there: it can never be complete.
 *
 * What runs when a transaction is committed without a command for it, as deferred triggers do at
 * the end of a pipeline, is a command of its own.
 */
#pragma once

#include "pg.hpp"

namespace pglock::command
{
/* No two commands of a session have the same. */
using id = int64;

/* To be called when a statement begins that may be the client's own. May raise 53200. */
void begin();

/*
 * To be called before something is taken: the running statement may have loaded the library. May
 * raise 53200.
 */
void expect_taking();

/* The command that runs, which takes something. Never raises. */
id current();

/* May the command still take anything. The older ones of the same transaction may. */
bool may_go_on(id command);

/*
 * For the callbacks of a transaction or subtransaction that is rolled back: is it because the
 * client's command has failed, as opposed to errors that the command caught and rollbacks that were
 * asked for.
 */
bool has_failed();

/* Is it because the client leaves a block, or goes back to a savepoint, after a command failed. */
bool is_leaving_failed_block();

/* Then: finds out which commands have failed that can have taken something. Never raises. */
bool find_failed();
bool is_failed(id command);

/* To be called when a transaction has ended. */
void end_transaction();
} // namespace pglock::command
