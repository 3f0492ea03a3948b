/*
 * lease_rows.cpp: where leases are kept, the relation pglock.lease_rows.
 *
 * Rows are read whatever the transaction's snapshot: SnapshotAny gives all versions, and of each is
 * judged under the lock of its buffer what has become of it. So it works at every isolation level
 * and without a snapshot, and does not get slower where an old snapshot keeps dead versions.
 *
 * A change in place is logged as any change to the page, and not flushed. After a crash each lease
 * has its whole time again, so it does not matter that a renewal was lost, unless it made that time
 * longer; leases.cpp sees to that.
 */
#include "lease_rows.hpp"

#include "compat.hpp"
#include "key.hpp"
#include "own_relation.hpp"

#include <cstddef>

namespace pglock
{
namespace
{
constexpr int key_column = 11;
constexpr int holder_column = 12;
constexpr int columns = holder_column;

own_relation table(RELKIND_MATVIEW, "lease_rows");
own_relation by_key(RELKIND_INDEX, "lease_rows_by_key");
own_relation by_token(RELKIND_INDEX, "lease_rows_by_token");

lease_row *
fixed_columns(HeapTuple tuple)
{
	return reinterpret_cast<lease_row *>(GETSTRUCT(tuple));
}

/* The tuple at a place in a page that is locked; false: there is none any more. */
bool
tuple_at(Relation relation, Page page, const ItemPointerData &at, HeapTupleData &tuple)
{
	OffsetNumber offset = ItemPointerGetOffsetNumber(&at);

	if (offset > PageGetMaxOffsetNumber(page))
		return false;

	ItemId item = PageGetItemId(page, offset);

	if (!ItemIdIsNormal(item))
		return false;
	tuple.t_tableOid = RelationGetRelid(relation);
	tuple.t_self = at;
	tuple.t_len = ItemIdGetLength(item);
	tuple.t_data = reinterpret_cast<HeapTupleHeader>(PageGetItem(page, item));
	return true;
}

/* What has become of a tuple whose buffer is locked. */
lease_state
judge(HeapTuple tuple, Buffer buffer)
{
	SnapshotData dirty;

	InitDirtySnapshot(dirty);
	if (!HeapTupleSatisfiesVisibility(tuple, &dirty, buffer))
		return lease_state::none;
	return TransactionIdIsValid(dirty.xmin) || TransactionIdIsValid(dirty.xmax)
			   ? lease_state::changing
			   : lease_state::there;
}

/* Was it inserted by a transaction that has committed, or is this one. */
bool
is_inserted(HeapTuple tuple)
{
	TransactionId by = HeapTupleHeaderGetXmin(tuple->t_data);

	return HeapTupleHeaderXminCommitted(tuple->t_data) || TransactionIdIsCurrentTransactionId(by) ||
		   (!TransactionIdIsInProgress(by) && TransactionIdDidCommit(by));
}

/*
 * Registers the latest snapshot, which may be taken in a parallel query, too.
 *
 * Writing needs one although the rows are too short to be toasted: PostgreSQL wants it wherever
 * they might be, which is checked where assertions are, and CALL lease and the end of a transaction
 * have none.
 */
Snapshot
latest_snapshot(Relation relation)
{
	return RegisterSnapshot(GetCatalogSnapshot(RelationGetRelid(relation)));
}

/* The copied part ends before the padding. */
constexpr size_t fixed_size = offsetof(lease_row, slot) + sizeof(lease_row::slot);

/* Reads where the versions of rows are that an index finds, in its order. */
class index_scan
{
  public:
	index_scan(Relation relation, own_relation &by)
	{
		of = relation;
		index = index_open(by.find_or_raise(), AccessShareLock);
	}

	/* The next column of the index is to be equal. */
	void
	where(RegProcedure equal, Datum value)
	{
		ScanKeyInit(&keys[key_count], static_cast<AttrNumber>(key_count + 1), BTEqualStrategyNumber,
					equal, value);
		key_count++;
	}

	void
	begin()
	{
		scan = compat::begin_index_scan(of, index, SnapshotAny, key_count);
		index_rescan(scan, keys, key_count, nullptr, 0);
	}

	const ItemPointerData *
	next(ScanDirection direction)
	{
		return index_getnext_tid(scan, direction);
	}

	/* The index need not find again what next() has returned. */
	void
	forget_last()
	{
		scan->kill_prior_tuple = true;
	}

	void
	end()
	{
		index_endscan(scan);
		index_close(index, AccessShareLock);
	}

  private:
	Relation of;
	Relation index;
	IndexScanDesc scan;
	ScanKeyData keys[2];
	int key_count = 0;
};
static_assert(std::is_trivially_destructible_v<index_scan>);
} // namespace

bool
lease_rows::is_at_hand()
{
	Oid relation = table.find();

	/* that it was dropped may become known when it is locked */
	return OidIsValid(relation) && ConditionalLockRelationOid(relation, RowExclusiveLock) &&
		   table.find() == relation;
}

lease_rows::lease_rows()
{
	relation = table.open(RowExclusiveLock);
}

void
lease_rows::close()
{
	/* what was written is locked until the transaction ends, as every table is */
	relation_close(relation, has_written ? NoLock : RowExclusiveLock);
}

found_lease
lease_rows::read(HeapTuple tuple, Buffer buffer)
{
	found_lease found = {judge(tuple, buffer), {}, tuple->t_self};

	memcpy(&found.row, fixed_columns(tuple), fixed_size);
	/* a database that was copied from this one has another id */
	if (found.row.database != MyDatabaseId)
		found.state = lease_state::none;
	return found;
}

found_lease
lease_rows::look_at(const ItemPointerData &at, version &kind)
{
	found_lease found = {};
	HeapTupleData tuple;
	Buffer buffer = ReadBuffer(relation, ItemPointerGetBlockNumber(&at));

	kind = version::removed;
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	if (tuple_at(relation, BufferGetPage(buffer), at, tuple))
	{
		found = read(&tuple, buffer);
		kind = is_inserted(&tuple) || found.state != lease_state::none ? version::committed
																	   : version::rolled_back;
	}
	UnlockReleaseBuffer(buffer);
	return found;
}

void
lease_rows::prune(const ItemPointerData &at)
{
	Buffer buffer = ReadBuffer(relation, ItemPointerGetBlockNumber(&at));

	compat::prune_page(relation, buffer);
	ReleaseBuffer(buffer);
}

found_lease
lease_rows::newest(int64 key_id, int32 slot)
{
	found_lease found = {};
	version kind = version::removed;
	index_scan scan(relation, by_key);

	scan.where(F_INT8EQ, Int64GetDatum(key_id));
	scan.where(F_INT4EQ, Int32GetDatum(slot));
	scan.begin();
	while (kind != version::committed)
	{
		const ItemPointerData *at = scan.next(BackwardScanDirection);

		if (at == nullptr)
			break;
		prune(*at);
		/* what was rolled back decides nothing */
		found = look_at(*at, kind);
		if (kind == version::removed)
			scan.forget_last();
	}
	scan.end();
	return found;
}

found_lease
lease_rows::of_token(int64 token)
{
	found_lease found = {};
	version kind;
	index_scan scan(relation, by_token);

	scan.where(F_INT8EQ, Int64GetDatum(token));
	scan.begin();
	while (found.state == lease_state::none)
	{
		const ItemPointerData *at = scan.next(ForwardScanDirection);

		if (at == nullptr)
			break;
		found = look_at(*at, kind);
	}
	scan.end();
	return found;
}

found_lease
lease_rows::again(const found_lease &lease)
{
	version kind;
	found_lease found = look_at(lease.at, kind);

	return found.row.token == lease.row.token ? found : found_lease{};
}

shown_lease
lease_rows::show(const ItemPointerData &at, Snapshot seen_by)
{
	found_lease found = {};
	HeapTupleData tuple;
	HeapTuple copy = nullptr;
	Buffer buffer = ReadBuffer(relation, ItemPointerGetBlockNumber(&at));

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	if (tuple_at(relation, BufferGetPage(buffer), at, tuple))
	{
		found = read(&tuple, buffer);
		if (found.state != lease_state::none &&
			HeapTupleSatisfiesVisibility(&tuple, seen_by, buffer))
			copy = heap_copytuple(&tuple);
	}
	UnlockReleaseBuffer(buffer);
	if (copy == nullptr)
		return {};

	auto column = [&](int number) -> const text * {
		bool is_null;
		Datum value = heap_getattr(copy, number, RelationGetDescr(relation), &is_null);

		return is_null ? nullptr : DatumGetTextPP(value);
	};

	return {found.state, found.row, column(key_column), column(holder_column)};
}

void
lease_rows::scan_key(int64 key_id, void (*visit)(const shown_lease &, void *), void *argument)
{
	index_scan scan(relation, by_key);

	scan.where(F_INT8EQ, Int64GetDatum(key_id));
	scan.begin();
	while (const ItemPointerData *at = scan.next(ForwardScanDirection))
	{
		shown_lease shown = show(*at);

		CHECK_FOR_INTERRUPTS();
		if (shown.state != lease_state::none)
			visit(shown, argument);
	}
	scan.end();
}

void
lease_rows::scan_all(void (*visit)(const shown_lease &, void *), void *argument)
{
	/* if the scan had it, all would count as read, and serializable transactions fail by that */
	Snapshot latest = latest_snapshot(relation);
	SysScanDesc scan = systable_beginscan(relation, InvalidOid, false, SnapshotAny, 0, nullptr);

	while (HeapTuple tuple = systable_getnext(scan))
	{
		shown_lease shown = show(tuple->t_self, latest);

		CHECK_FOR_INTERRUPTS();
		if (shown.state != lease_state::none)
			visit(shown, argument);
	}
	systable_endscan(scan);
	UnregisterSnapshot(latest);
}

size_t
lease_rows::sample_page(std::span<found_lease> room, bool (*wanted)(const lease_row &, void *),
						void *argument)
{
	BlockNumber pages = RelationGetNumberOfBlocks(relation);
	size_t count = 0;

	if (pages == 0)
		return 0;

	auto number = static_cast<BlockNumber>(
		pg_prng_uint64_range(&pg_global_prng_state, 0, static_cast<uint64>(pages) - 1));
	Buffer buffer = ReadBuffer(relation, number);

	LockBuffer(buffer, BUFFER_LOCK_SHARE);

	Page page = BufferGetPage(buffer);
	OffsetNumber last = PageGetMaxOffsetNumber(page);

	for (OffsetNumber offset = FirstOffsetNumber; offset <= last && count < room.size(); offset++)
	{
		found_lease found = {};
		HeapTupleData tuple;

		ItemPointerSet(&found.at, number, offset);
		if (!tuple_at(relation, page, found.at, tuple))
			continue;
		memcpy(&found.row, fixed_columns(&tuple), fixed_size);
		if (!wanted(found.row, argument))
			continue;
		found.state = judge(&tuple, buffer);
		if (found.state == lease_state::there)
			room[count++] = found;
	}
	UnlockReleaseBuffer(buffer);
	return count;
}

bool
lease_rows::change_row(const found_lease &lease, bool (*decide)(lease_row &, void *),
					   void *argument)
{
	HeapTupleData tuple;
	lease_row changed;
	Buffer buffer = ReadBuffer(relation, ItemPointerGetBlockNumber(&lease.at));

	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);

	bool is_there = tuple_at(relation, BufferGetPage(buffer), lease.at, tuple) &&
					fixed_columns(&tuple)->token == lease.row.token &&
					judge(&tuple, buffer) != lease_state::none;

	if (is_there)
		memcpy(&changed, fixed_columns(&tuple), fixed_size);
	is_there = is_there && decide(changed, argument);
	if (is_there)
	{
		/* else it would be compared with a replayed page, which lacks what hints are not logged */
		int how = wal_consistency_checking[RM_GENERIC_ID] ? GENERIC_XLOG_FULL_IMAGE : 0;
		GenericXLogState *change = GenericXLogStart(relation);
		Page page = GenericXLogRegisterBuffer(change, buffer, how);

		tuple_at(relation, page, lease.at, tuple);
		memcpy(fixed_columns(&tuple), &changed, fixed_size);
		GenericXLogFinish(change);
	}
	UnlockReleaseBuffer(buffer);
	return is_there;
}

bool
lease_rows::end_row(const found_lease &lease, bool (*is_over)(const lease_row &, void *),
					void *argument)
{
	bool is_claimed = change(lease, [&](lease_row &row) {
		if (!is_over(row, argument))
			return false;
		row.expires = 0;
		return true;
	});

	if (is_claimed)
		remove(lease);
	return is_claimed;
}

void
lease_rows::insert(const lease_row &row, std::string_view key, const text *holder)
{
	shown_name_buffer shown;
	int shown_length = show_name(key, shown);
	bool nulls[columns] = {};
	Datum values[columns] = {
		Int64GetDatum(row.key_id),
		Int64GetDatum(row.token),
		Int64GetDatum(row.expires),
		Int64GetDatum(row.ttl),
		Int64GetDatum(row.run),
		TimestampTzGetDatum(row.acquired_at),
		TimestampTzGetDatum(row.renewed_at),
		ObjectIdGetDatum(row.database),
		ObjectIdGetDatum(row.role),
		Int32GetDatum(row.slot),
		PointerGetDatum(cstring_to_text_with_len(shown, shown_length)),
		PointerGetDatum(holder),
	};

	nulls[holder_column - 1] = holder == nullptr;

	HeapTuple tuple = heap_form_tuple(RelationGetDescr(relation), values, nulls);
	Snapshot snapshot = latest_snapshot(relation);

	CatalogTupleInsert(relation, tuple);
	UnregisterSnapshot(snapshot);
	heap_freetuple(tuple);
	has_written = true;
}

void
lease_rows::remove(const found_lease &lease)
{
	ItemPointerData at = lease.at;
	Snapshot snapshot = latest_snapshot(relation);

	CatalogTupleDelete(relation, &at);
	UnregisterSnapshot(snapshot);
	has_written = true;
}
} // namespace pglock
