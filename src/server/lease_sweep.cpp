/*
 * lease_sweep.cpp: removing the leases that expired long ago, and that nobody has taken over.
 *
 * Who removes a lease locks its slot until the transaction ends. That is done when the transaction
 * commits: it waits for no other lock then, so that nobody gets into a deadlock by what was none of
 * its business. Nor does it wait for the lock of the slot, or fail without: another will come by.
 */
#include "lease_sweep.hpp"

#include "lease_expiry.hpp"
#include "lease_locks.hpp"
#include "lease_queue.hpp"
#include "module.hpp"

namespace pglock::lease_sweep
{
namespace
{
/* More than a transaction adds, and few enough not to be noticed. */
constexpr size_t most = 4;

bool is_due = false;

bool
is_over(const lease_row &row, const lease_clock::run &run)
{
	/* what came along with a copied database was never ours */
	return row.database != MyDatabaseId ||
		   lease_expiry::end_of(row, run) + settings::lease_retention * USECS_PER_SEC <=
			   steady_clock::now();
}

/* As a takeover does, after which nobody takes it. */
void
remove(lease_rows &rows, const found_lease &lease, const lease_clock::run &run)
{
	heavyweight_lock lock =
		lease_locks::slot(lease.row.key_id, lease.row.slot, lease_locks::use::take);

	if (manager::take(lock, scope::transaction, false) == nullptr)
		return;

	if (rows.end_if(lease, [&](const lease_row &row) { return is_over(row, run); }))
		lease_queue::wake_at_end(lease.row.key_id);
	else
		manager::give_back(lock, scope::transaction);
}

void
sweep()
{
	found_lease found[most];

	if (!lease_rows::is_at_hand())
		return;

	lease_rows rows;
	lease_clock::run run = lease_clock::current_run();
	size_t count = rows.sample(found, [&](const lease_row &row) { return is_over(row, run); });

	for (size_t i = 0; i < count; i++)
		remove(rows, found[i], run);
	rows.close();
}

void
at_transaction_event(XactEvent event, void *)
{
	if (event == XACT_EVENT_PRE_COMMIT && is_due)
		sweep();
	is_due = false;
}
} // namespace

void
at_commit()
{
	static bool is_registered = false;

	if (!is_registered)
		RegisterXactCallback(at_transaction_event, nullptr);
	is_registered = true;
	is_due = true;
}
} // namespace pglock::lease_sweep
