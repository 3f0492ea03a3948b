/*
 * watch.cpp: what is to be done when statements and transactions end.
 *
 * When a command of the client fails, what it took at session scope is given back: the client sees
 * an error, and does not know what it holds. Errors that the command caught itself, and rollbacks
 * that were asked for, take nothing away.
 *
 * And when something may have gone round the books, they are brought in line with the lock manager
 * when the client's statement has ended, so that others see what this session holds. That takes
 * time for each lock that is held, so a statement which can't have gone round them does not pay for
 * it.
 */
#include "watch.hpp"

#include "command.hpp"
#include "context.hpp"
#include "holds.hpp"
#include "message_end.hpp"
#include "writes.hpp"

namespace pglock::watch
{
namespace
{
ExecutorRun_hook_type previous_executor_run = nullptr;
ExecutorFinish_hook_type previous_executor_finish = nullptr;
ProcessUtility_hook_type previous_process_utility = nullptr;
object_access_hook_type previous_object_access = nullptr;

/* What of the books may differ from what the lock manager has. */
enum class doubt {
	nothing,
	transaction, /* what was rolled back to a savepoint */
	everything,	 /* until the transaction ends: a function may be called again without notice */
};
doubt in_doubt = doubt::nothing;

void
bring_in_line()
{
	if (in_doubt == doubt::everything)
		holds::refresh_all();
	else
	{
		holds::refresh_transaction();
		in_doubt = doubt::nothing;
	}
}

/* Called when a statement has ended. */
void
after_statement()
{
	if (in_doubt != doubt::nothing)
		bring_in_line();
}

/* A function that is called by the protocol is in no statement. */
message_end end_of_doubt(after_statement);

/* Called when a transaction or subtransaction is rolled back. */
void
give_back_if_command_failed()
{
	if ((command::has_failed() || command::is_leaving_failed_block()) && command::find_failed())
		holds::give_back_failed();
}

void
at_transaction_end(XactEvent event, void *)
{
	if (event == XACT_EVENT_ABORT)
		give_back_if_command_failed();
}

void
at_subtransaction_event(SubXactEvent event, SubTransactionId id, SubTransactionId, void *)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		writes::forget(id);
		give_back_if_command_failed();
	}
	/* ROLLBACK TO ends with the savepoint begun anew; a block of PL/pgSQL runs in a statement */
	else if (event == SUBXACT_EVENT_START_SUB && ActivePortal == nullptr)
		after_statement();
}

/*
 * The lock manager has released what ends with a transaction, or is rolled back to a savepoint.
 * Called for each resource owner, also those of portals and of all subtransactions: what has to be
 * done for each lock is done once.
 */
void
after_release(ResourceReleasePhase phase, bool is_commit, bool is_transaction, void *)
{
	/* while the session ends, what it published may have gone already */
	if (phase != RESOURCE_RELEASE_AFTER_LOCKS || shmem_exit_inprogress)
		return;
	if (is_transaction)
	{
		if (CurrentResourceOwner != TopTransactionResourceOwner)
			return;
		bring_in_line();
		in_doubt = doubt::nothing;
		writes::forget();
		command::end_transaction();
	}
	else if (!is_commit)
	{
		if (in_doubt == doubt::nothing)
			in_doubt = doubt::transaction;
		/* a statement that failed has no other end */
		if (CurrentResourceOwner == CurTransactionResourceOwner && command::has_failed())
			bring_in_line();
	}
}

/* Is it one of PostgreSQL's functions for advisory locks. */
bool
is_advisory(Oid function)
{
	return (function >= F_PG_ADVISORY_LOCK_INT8 && function <= F_PG_ADVISORY_UNLOCK_ALL) ||
		   (function >= F_PG_ADVISORY_XACT_LOCK_INT8 &&
			function <= F_PG_TRY_ADVISORY_XACT_LOCK_SHARED_INT4_INT4);
}

/* Is it another name for one of them. */
bool
is_alias_of_advisory(Oid function)
{
	if (function < FirstNormalObjectId)
		return false;

	HeapTuple found = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));

	if (!HeapTupleIsValid(found))
		return false;

	bool is_internal =
		reinterpret_cast<Form_pg_proc>(GETSTRUCT(found))->prolang == INTERNALlanguageId;
	bool is_alias = false;

	if (is_internal)
	{
		bool is_null;
		Datum name = SysCacheGetAttr(PROCOID, found, Anum_pg_proc_prosrc, &is_null);

		is_alias = !is_null && is_advisory(fmgr_internal_function(TextDatumGetCString(name)));
	}
	ReleaseSysCache(found);
	return is_alias;
}

/* Called before functions are run, among others: once for many calls within a transaction. */
void
on_object_access(ObjectAccessType access, Oid catalog, Oid object, int sub_id, void *argument)
{
	if (previous_object_access != nullptr)
		previous_object_access(access, catalog, object, sub_id, argument);
	if (access != OAT_FUNCTION_EXECUTE)
		return;
	if (is_advisory(object) || is_alias_of_advisory(object))
	{
		in_doubt = doubt::everything;
		end_of_doubt.await();
	}
	else if (object == F_PG_NOTIFY)
		writes::note_notification();
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
	writes::note_statement();
	if (context::is_top_level())
		command::begin();
	if (previous_executor_run != nullptr)
		previous_executor_run(query, direction, count, rest...);
	else
		standard_ExecutorRun(query, direction, count, rest...);
	if (in_doubt != doubt::nothing && !fires_triggers(query) && context::is_top_level())
		after_statement();
}

void
executor_finish(QueryDesc *query)
{
	if (previous_executor_finish != nullptr)
		previous_executor_finish(query);
	else
		standard_ExecutorFinish(query);
	if (in_doubt != doubt::nothing && fires_triggers(query) && context::is_top_level())
		after_statement();
}

/* DISCARD ALL releases every lock of the session. */
bool
discards_locks(const PlannedStmt *statement)
{
	auto discard = reinterpret_cast<const DiscardStmt *>(statement->utilityStmt);

	return IsA(discard, DiscardStmt) && discard->target == DISCARD_ALL;
}

void
process_utility(PlannedStmt *statement, const char *query, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo parameters,
				QueryEnvironment *environment, DestReceiver *destination,
				QueryCompletion *completion)
{
	auto process =
		previous_process_utility != nullptr ? previous_process_utility : standard_ProcessUtility;

	writes::note_statement();
	if (context == PROCESS_UTILITY_TOPLEVEL)
		command::begin();
	if (discards_locks(statement))
		in_doubt = doubt::everything;
	else if (IsA(statement->utilityStmt, NotifyStmt))
		writes::note_notification();
	process(statement, query, read_only_tree, context, parameters, environment, destination,
			completion);
	if (context == PROCESS_UTILITY_TOPLEVEL)
		after_statement();
}
} // namespace

void
begin()
{
	RegisterXactCallback(at_transaction_end, nullptr);
	RegisterSubXactCallback(at_subtransaction_event, nullptr);
	RegisterResourceReleaseCallback(after_release, nullptr);
	previous_executor_run = ExecutorRun_hook;
	ExecutorRun_hook = executor_run;
	previous_executor_finish = ExecutorFinish_hook;
	ExecutorFinish_hook = executor_finish;
	previous_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
	previous_object_access = object_access_hook;
	object_access_hook = on_object_access;
}
} // namespace pglock::watch
