/*
 * hold_locks.c: for PostgreSQL's own tests: has every session hold locks without knowing of it.
 *
 * To be loaded by session_preload_libraries. A session takes some locks when it begins, and one more in each of
 * its transactions that runs a query. The extension need not be in the database: it would be in what the tests
 * list.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "replication/walsender.h"
#include "storage/proc.h"
#include "utils/builtins.h"

PG_MODULE_MAGIC;

#define LOCKS_OF_SESSION 50

static ExecutorStart_hook_type previous_executor_start = NULL;

PGDLLEXPORT void _PG_init(void);

static void
acquire(const char *key, bool shared, const char *scope)
{
	FmgrInfo function = {0};

	LOCAL_FCINFO(call, 4);

	function.fn_addr = load_external_function("$libdir/postgres_lock", "pglock_acquire_text", true, NULL);
	function.fn_nargs = 4;
	function.fn_mcxt = CurrentMemoryContext;
	InitFunctionCallInfoData(*call, &function, 4, InvalidOid, NULL, NULL);
	call->args[0] = (NullableDatum) {PointerGetDatum(cstring_to_text(key)), false};
	call->args[1] = (NullableDatum) {(Datum) 0, true};
	call->args[2] = (NullableDatum) {BoolGetDatum(shared), false};
	call->args[3] = (NullableDatum) {PointerGetDatum(cstring_to_text(scope)), false};
	if (!DatumGetBool(FunctionCallInvoke(call)))
		elog(FATAL, "could not take the lock that is to be held");
}

static void
executor_start(QueryDesc *query, int flags)
{
	static LocalTransactionId last = InvalidLocalTransactionId;

	if (MyProc->lxid != last && !IsInParallelMode())
	{
		last = MyProc->lxid;
		/* a transaction may be prepared, and outlive the session */
		acquire("of transactions", true, "transaction");
	}
	if (previous_executor_start)
		previous_executor_start(query, flags);
	else
		standard_ExecutorStart(query, flags);
}

void
_PG_init(void)
{
	if (MyProcPort == NULL || IsParallelWorker() || am_walsender)
		return;

	/* a session loads its libraries in its first transaction */
	for (int i = 0; i < LOCKS_OF_SESSION; i++)
		acquire(psprintf("%d of session %d", i, MyProcPid), i % 2 == 0, "session");

	previous_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = executor_start;
}
