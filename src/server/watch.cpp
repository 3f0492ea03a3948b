/*
 * watch.cpp: what is to be done when statements and transactions end.
 *
 * When a command of the client fails, what it took at session scope is given back: the client sees
 * an error, and does not know what it holds. Errors that the command caught itself, and rollbacks
 * that were asked for, take nothing away.
 *
 * And whenever a statement of the client has ended, the books are brought in line with the lock
 * manager, so that others see what this session holds even if locks went round us.
 */
#include "watch.hpp"

#include "context.hpp"
#include "holds.hpp"

namespace pglock::watch
{
namespace
{
ExecutorRun_hook_type previous_executor_run = nullptr;
ExecutorFinish_hook_type previous_executor_finish = nullptr;
ProcessUtility_hook_type previous_process_utility = nullptr;

/* Called when a transaction or subtransaction is rolled back. */
void
give_back_if_command_failed()
{
	TimestampTz command = GetCurrentStatementStartTimestamp();

	/* 0: no client's, a background worker's */
	if (command != 0 && context::command_has_failed())
		holds::give_back_taken_by(command);
}

void
at_transaction_end(XactEvent event, void *)
{
	if (event == XACT_EVENT_ABORT)
		give_back_if_command_failed();
}

void
at_subtransaction_end(SubXactEvent event, SubTransactionId, SubTransactionId, void *)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		give_back_if_command_failed();
}

/* The lock manager has released what ends with a transaction, or is rolled back to a savepoint. */
void
after_release(ResourceReleasePhase phase, bool is_commit, bool is_transaction, void *)
{
	/* while the session ends, what it published may have gone already */
	if (phase != RESOURCE_RELEASE_AFTER_LOCKS || shmem_exit_inprogress)
		return;
	if (is_transaction || (!is_commit && context::is_top_level()))
		holds::refresh_all();
}

/* Does the query fire triggers after it has run, when it is finished; others may stay unfinished.
 */
bool
fires_triggers(const QueryDesc *query)
{
	return query->operation != CMD_SELECT || query->plannedstmt->hasModifyingCTE;
}

/* its last argument went with PostgreSQL 18 */
template <typename... Rest>
void
executor_run(QueryDesc *query, ScanDirection direction, uint64 count, Rest... rest)
{
	if (previous_executor_run != nullptr)
		previous_executor_run(query, direction, count, rest...);
	else
		standard_ExecutorRun(query, direction, count, rest...);
	if (!fires_triggers(query) && context::is_top_level())
		holds::refresh_all();
}

void
executor_finish(QueryDesc *query)
{
	if (previous_executor_finish != nullptr)
		previous_executor_finish(query);
	else
		standard_ExecutorFinish(query);
	if (fires_triggers(query) && context::is_top_level())
		holds::refresh_all();
}

void
process_utility(PlannedStmt *statement, const char *query, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo parameters,
				QueryEnvironment *environment, DestReceiver *destination,
				QueryCompletion *completion)
{
	auto process =
		previous_process_utility != nullptr ? previous_process_utility : standard_ProcessUtility;

	process(statement, query, read_only_tree, context, parameters, environment, destination,
			completion);
	if (context == PROCESS_UTILITY_TOPLEVEL)
		holds::refresh_all();
}
} // namespace

void
begin()
{
	RegisterXactCallback(at_transaction_end, nullptr);
	RegisterSubXactCallback(at_subtransaction_end, nullptr);
	RegisterResourceReleaseCallback(after_release, nullptr);
	previous_executor_run = ExecutorRun_hook;
	ExecutorRun_hook = executor_run;
	previous_executor_finish = ExecutorFinish_hook;
	ExecutorFinish_hook = executor_finish;
	previous_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}
} // namespace pglock::watch
