/*
 * lease_rows.hpp: where leases are kept, the relation pglock.lease_rows.
 *
 * A lease is a row. Acquiring inserts it, in place of the row of the lease that had expired, and
 * releasing deletes it: both are as transactional as any write. Renewing changes the row in place
 * and at once, without a new version and without a transaction id.
 *
 * Who inserts or deletes has the lock of the lease's slot: see lease_locks.hpp. Tokens only grow,
 * so of a slot's rows the newest that was committed decides.
 */
#pragma once

#include "pg.hpp"

#include <span>
#include <string_view>
#include <type_traits>

namespace pglock
{
/* What the columns of fixed width hold; key and holder follow. All times in microseconds. */
struct lease_row
{
	int64 key_id;
	int64 token;
	int64 expires; /* by steady_clock::now(), in `run`; 0: claimed by a takeover */
	int64 ttl;	   /* negative: it was lengthened to that, and a crash may undo it */
	int64 run;	   /* in which it was acquired or last renewed */
	TimestampTz acquired_at;
	TimestampTz renewed_at;
	Oid database;
	Oid role;
	int32 slot;

	int64
	time_to_live() const
	{
		return ttl < 0 ? -ttl : ttl;
	}
};

/* What of the row of a lease can be seen now. */
enum class lease_state {
	none,	  /* it is not there, or was deleted */
	there,	  /* it is there, expired or not */
	changing, /* another transaction, which has not ended, has inserted or deleted it */
};

struct found_lease
{
	lease_state state;
	lease_row row;
	ItemPointerData at;
};

/* A lease with its texts, which live in the current memory context. */
struct shown_lease
{
	lease_state state;
	lease_row row;
	const text *key;
	const text *holder; /* nullptr: none was given */
};

class lease_rows
{
  public:
	/* Raises 55000 if the relation is not there. */
	lease_rows();

	/* to be called by hand: an error releases what it does by itself */
	void close();

	/* The lease of a slot of a key. */
	found_lease newest(int64 key_id, int32 slot);

	found_lease of_token(int64 token);

	/* What has become of a lease that was found before. */
	found_lease again(const found_lease &lease);

	/* Can the relation be opened at once, for the rest of the transaction. Never raises or waits.
	 */
	static bool is_at_hand();

	/*
	 * Looks at one page, chosen at random, for rows that are there and that wanted(row) is true of.
	 * Returns how many it has put into `room`.
	 */
	template <typename Wanted>
	size_t
	sample(std::span<found_lease> room, Wanted wanted)
	{
		return sample_page(room, call_on_row<Wanted>, &wanted);
	}

	/* Calls visit(shown) for each row of a key that is there or changing. */
	template <typename Visit>
	void
	for_each_of_key(int64 key_id, Visit visit)
	{
		scan_key(key_id, call<Visit>, &visit);
	}

	/* Calls visit(shown) for each row that is there, or was when another began to delete it. */
	template <typename Visit>
	void
	for_each(Visit visit)
	{
		scan_all(call<Visit>, &visit);
	}

	/*
	 * Changes a row in place, durably only with what is logged after it, while nobody else does.
	 * decide(row &) changes it and says whether it did. False: it did not, or the row is not there
	 * any more.
	 */
	template <typename Decide>
	bool
	change(const found_lease &lease, Decide decide)
	{
		return change_row(lease, call_decide<Decide>, &decide);
	}

	/*
	 * Ends a lease that is_over(row) is true of, whose slot is locked for taking. It is claimed
	 * first, under the lock that renewals need: those that came before have their effect on
	 * is_over(), and those that come later are refused. False: it is not over, or not there.
	 */
	template <typename IsOver>
	bool
	end_if(const found_lease &lease, IsOver is_over)
	{
		return end_row(lease, call_on_row<IsOver>, &is_over);
	}

	void insert(const lease_row &row, std::string_view key, const text *holder);

	void remove(const found_lease &lease);

  private:
	template <typename Visit>
	static void
	call(const shown_lease &shown, void *visit)
	{
		(*static_cast<Visit *>(visit))(shown);
	}

	template <typename Function>
	static bool
	call_on_row(const lease_row &row, void *function)
	{
		return (*static_cast<Function *>(function))(row);
	}

	template <typename Decide>
	static bool
	call_decide(lease_row &row, void *decide)
	{
		return (*static_cast<Decide *>(decide))(row);
	}

	/* A version of a row: was it committed (or is it ours), rolled back, or is it no more. */
	enum class version { committed, rolled_back, removed };

	static found_lease read(HeapTuple tuple, Buffer buffer);
	found_lease look_at(const ItemPointerData &at, version &kind);
	void prune(const ItemPointerData &at);
	shown_lease show(const ItemPointerData &at, Snapshot seen_by = SnapshotAny);
	void scan_key(int64 key_id, void (*visit)(const shown_lease &, void *), void *argument);
	void scan_all(void (*visit)(const shown_lease &, void *), void *argument);
	size_t sample_page(std::span<found_lease> room, bool (*wanted)(const lease_row &, void *),
					   void *argument);
	bool change_row(const found_lease &lease, bool (*decide)(lease_row &, void *), void *argument);
	bool end_row(const found_lease &lease, bool (*is_over)(const lease_row &, void *),
				 void *argument);

	Relation relation;
	bool has_written = false;
};
static_assert(std::is_trivially_destructible_v<lease_rows>);
} // namespace pglock
