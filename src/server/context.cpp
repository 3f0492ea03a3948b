/*
 * context.cpp: where in the client's work a call stands.
 */
#include "context.hpp"

namespace pglock::context
{
bool
is_top_level()
{
	/*
	 * Whatever runs a statement on the client's behalf says so in its error context. The protocol
	 * itself adds no more than one, for the statement's parameters.
	 */
	return error_context_stack == nullptr || (error_context_stack->previous == nullptr &&
											  error_context_stack->callback == ParamsErrorCallback);
}

bool
transaction_ends_with_statement()
{
	/* the later commands of a pipeline share their transaction as those of a block do */
	return !IsTransactionBlock() && !IsSubTransaction() &&
		   (MyXactFlags & XACT_FLAGS_PIPELINING) == 0 && is_top_level();
}

void
check_no_parallel_worker()
{
	if (IsParallelWorker())
		ereport(ERROR, (errcode(ERRCODE_INVALID_TRANSACTION_STATE),
						errmsg("a parallel worker has no part in the locks of its session"),
						errhint("Mark the function that calls pglock PARALLEL UNSAFE.")));
}

bool
has_fixed_snapshot()
{
	return IsolationUsesXactSnapshot() && FirstSnapshotSet;
}

bool
command_has_failed()
{
	/*
	 * A failed command has been left: no portal runs, nothing wants to add to its messages, and its
	 * transaction is not (yet) marked as to be rolled back.
	 */
	return ActivePortal == nullptr && error_context_stack == nullptr &&
		   TransactionBlockStatusCode() != 'E';
}

bool
has_written()
{
	return TransactionIdIsValid(GetTopTransactionIdIfAny());
}

bool
may_end_transaction(FunctionCallInfo call)
{
	auto how = reinterpret_cast<const CallContext *>(call->context);

	if (how == nullptr || !IsA(how, CallContext) || how->atomic)
		return false;
	if (SPI_inside_nonatomic_context() || IsSubTransaction() || !is_top_level())
		return false;
	if (has_written() || (MyXactFlags & XACT_FLAGS_PIPELINING) != 0)
		return false;

	/* volatile functions in the arguments may have taken locks, or made settings, to last */
	auto expression = reinterpret_cast<FuncExpr *>(call->flinfo->fn_expr);

	return expression != nullptr && IsA(expression, FuncExpr) &&
		   !contain_volatile_functions(reinterpret_cast<Node *>(expression->args));
}

void
drop_snapshot()
{
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	SPI_commit();
	SPI_finish();
	InvalidateCatalogSnapshotConditionally();
}
} // namespace pglock::context
