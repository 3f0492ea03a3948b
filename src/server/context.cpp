/*
 * context.cpp: where in the client's work a call stands.
 */
#include "context.hpp"

#include "compat.hpp"

namespace pglock::context
{
namespace
{
/*
 * Does the client's statement end the transaction that it began, as far as can be told now. In the
 * extended protocol Sync does, which most clients send along with the statement.
 */
bool
is_followed_by_end()
{
	bool is_simple = ActivePortal == nullptr || !ActivePortal->visible;

	if (is_simple || MyProcPort == nullptr || whereToSendOutput != DestRemote)
		return true;
	if (!compat::has_more_from_client())
		return false;
	pq_startmsgread();
	int next = pq_peekbyte();
	pq_endmsgread();
	return next == 'S';
}

/*
 * Is there no portal beside the one that runs. They have memory contexts side by side, so this
 * takes no query, which each wait for a contended lock would have to pay for.
 */
bool
is_only_portal()
{
	MemoryContext own = ActivePortal->portalContext;

	return own->prevchild == nullptr && own->nextchild == nullptr;
}

/*
 * Has the client portals beside the one that runs, which end with the transaction. Those of others
 * are cursors that outlive their transactions.
 */
bool
has_other_portals()
{
	if (is_only_portal())
		return false;

	Oid types[] = {TEXTOID};
	Datum names[] = {CStringGetTextDatum(ActivePortal->name)};

	Oid user;
	int security;

	/* the user may not be allowed to ask */
	GetUserIdAndSecContext(&user, &security);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID,
						   security | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	SPI_connect();
	SPI_execute_with_args("SELECT FROM pg_catalog.pg_cursor() AS portal WHERE NOT is_holdable "
						  "AND name OPERATOR(pg_catalog.<>) $1",
						  1, types, names, nullptr, false, 1);
	bool found = SPI_processed > 0;
	SPI_finish();
	SetUserIdAndSecContext(user, security);
	return found;
}

/* Are a domain's constraints checked when a value of the type is made, be it for a part of it. */
bool
has_checks(Oid type)
{
	if (type < FirstNormalObjectId)
		return false;
	switch (get_typtype(type))
	{
		case TYPTYPE_DOMAIN:
			return compat::domain_has_constraints(type) || has_checks(getBaseType(type));
		case TYPTYPE_RANGE:
			return has_checks(get_range_subtype(type));
		case TYPTYPE_MULTIRANGE:
			return has_checks(get_multirange_range(type));
		case TYPTYPE_COMPOSITE:
		{
			TupleDesc row = lookup_rowtype_tupdesc(type, -1);
			bool has = false;

			for (int i = 0; i < row->natts && !has; i++)
				has = !TupleDescAttr(row, i)->attisdropped &&
					  has_checks(TupleDescAttr(row, i)->atttypid);
			ReleaseTupleDesc(row);
			return has;
		}
		default:
			return has_checks(get_element_type(type));
	}
}

/*
 * Has the expression a domain's constraints to check, which may be any functions. What parameters
 * and constants are of was checked when they were read.
 */
bool
checks_domain(Node *expression, void *)
{
	if (expression == nullptr)
		return false;
	switch (nodeTag(expression))
	{
		case T_CoerceToDomain:
			if (compat::domain_has_constraints(exprType(expression)))
				return true;
			break;
		case T_Const:
		case T_Param:
		case T_FuncExpr:
		case T_CoerceViaIO:
			if (has_checks(exprType(expression)))
				return true;
			break;
		default:
			break;
	}
	return compat::walk_expression(expression, checks_domain, nullptr);
}
} // namespace

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
		   (MyXactFlags & XACT_FLAGS_PIPELINING) == 0 && is_top_level() && is_followed_by_end();
}

void
check_no_parallel_worker()
{
	if (IsParallelWorker())
		ereport(ERROR, (errcode(ERRCODE_INVALID_TRANSACTION_STATE),
						errmsg("cannot acquire or release locks in a parallel worker"),
						errhint("Mark the function that calls pglock PARALLEL UNSAFE.")));
}

bool
has_fixed_snapshot()
{
	return IsolationUsesXactSnapshot() && FirstSnapshotSet;
}

bool
has_transaction_id()
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
	if (has_transaction_id() || (MyXactFlags & XACT_FLAGS_PIPELINING) != 0)
		return false;
	/* volatile functions in the arguments may have taken locks, or made settings, to last */
	auto expression = reinterpret_cast<FuncExpr *>(call->flinfo->fn_expr);

	if (expression == nullptr || !IsA(expression, FuncExpr))
		return false;

	auto arguments = reinterpret_cast<Node *>(expression->args);

	return !contain_volatile_functions(arguments) && !checks_domain(arguments, nullptr) &&
		   !has_other_portals();
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
