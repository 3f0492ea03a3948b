/*
 * token.cpp: fencing tokens.
 *
 * A token is the greater of the last one of this database + 1 and the microseconds since 1970. What
 * must never be undercut is kept in a sequence, pglock.tokens:
 *
 * - last_value is a bound that no token given out exceeds. It is logged ahead of the clock, by
 *   `ahead`, and the log is flushed, and replicated where there are synchronous standbys, before a
 *   token under it is given out. So only the first draw in that time has to wait for the disk.
 * - log_cnt says how far below the bound the last token was, and in which run of the server. It
 *   changes without being logged, as PostgreSQL's own does: only in the run that it tells of, which
 *   has its page in memory, is it to be believed. Elsewhere all up to the bound may have been given
 *   out.
 * - The page's place in the log tells on which timeline the bound was logged. If that was an
 *   earlier one, greater bounds may be lost with the end of its log. So for each timeline that has
 *   begun since, the bound is taken to be higher by pglock.token_margin: for each, because whoever
 *   drew first on one whose log is lost has done so, too. Who draws first logs a bound on this one.
 *
 * A draw waits until token_clock has passed the last token, which after a crash may be the bound.
 * So tokens never run ahead of that clock, unless it was set back, or is behind the clock of a
 * server that was primary before. Then an extension that was dropped and created again gives out
 * greater tokens by the clock alone.
 *
 * Sessions with another version of the library may draw from it at the same time, so what the
 * numbers mean is for ever.
 *
 * No transaction id is assigned: drawing a token writes nothing that a rollback would have to undo.
 */
#include "token.hpp"

#include "compat.hpp"
#include "context.hpp"
#include "durability.hpp"
#include "holds.hpp"
#include "module.hpp"
#include "own_relation.hpp"
#include "timelines.hpp"
#include "token_clock.hpp"

namespace pglock
{
namespace
{
using token_clock::ahead;

/* A number for this run of the server: another after each start, also after a crash. */
uint32
run_of_server()
{
	/* the handle that the server draws at random for its shared memory */
	return static_cast<const PGShmemHeader *>(UsedShmemSegAddr)->dsm_control;
}

own_relation tokens(RELKIND_SEQUENCE, "tokens");

/* The sequence, while nobody else can draw. */
class token_sequence
{
  public:
	token_sequence()
	{
		relation = tokens.open(RowExclusiveLock);
		buffer = ReadBuffer(relation, 0);
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	}

	/* to be called by hand: an error releases what it does by itself */
	void
	close()
	{
		UnlockReleaseBuffer(buffer);
		relation_close(relation, RowExclusiveLock);
	}

	int64
	bound() const
	{
		return data(BufferGetPage(buffer))->last_value;
	}

	/* Is it known which token was the last; otherwise it may be the bound. */
	bool
	knows_last() const
	{
		return static_cast<uint64>(data(BufferGetPage(buffer))->log_cnt) >> 32 == run_of_server();
	}

	/*
	 * How many timelines have begun since anything was drawn. None if the sequence is not logged:
	 * then no other server can have drawn from it.
	 */
	int
	timelines_begun() const
	{
		return knows_last() || !RelationNeedsWAL(relation) ? 0
														   : timelines::begun_since(logged_up_to());
	}

	/* What no token exceeds that was given out, be it in what is lost of the log. */
	int64
	last() const
	{
		int64 last;

		if (knows_last())
			return bound() - static_cast<uint32>(data(BufferGetPage(buffer))->log_cnt);
		return pg_add_s64_overflow(bound(), timelines_begun() * token_clock::margin(), &last)
				   ? PG_INT64_MAX
				   : last;
	}

	/*
	 * May the last token be set without logging: not first after a checkpoint, since a page that is
	 * then torn by a crash is only made whole from the log. A checkpoint that begins after this was
	 * asked finds the page to be written.
	 */
	bool
	is_logged_since_checkpoint()
	{
		MarkBufferDirty(buffer);
		return logged_up_to() > GetRedoRecPtr();
	}

	void
	log_bound(int64 bound)
	{
		GenericXLogState *change = GenericXLogStart(relation);
		/* whole, since what is in the page differs from what was logged of it */
		Page page = GenericXLogRegisterBuffer(change, buffer, GENERIC_XLOG_FULL_IMAGE);
		Form_pg_sequence_data changed = data(page);

		changed->last_value = bound;
		changed->is_called = true;
		changed->log_cnt = 0;
		GenericXLogFinish(change);
	}

	void
	set_last(int64 last)
	{
		data(BufferGetPage(buffer))->log_cnt = static_cast<int64>(
			static_cast<uint64>(run_of_server()) << 32 | static_cast<uint64>(bound() - last));
		MarkBufferDirty(buffer);
	}

	/* Where the log record of the bound ends, or of something later. */
	XLogRecPtr
	logged_up_to() const
	{
		return PageGetLSN(BufferGetPage(buffer));
	}

  private:
	/* the one tuple of the sequence */
	static Form_pg_sequence_data
	data(Page page)
	{
		auto tuple = reinterpret_cast<HeapTupleHeader>(
			PageGetItem(page, PageGetItemId(page, FirstOffsetNumber)));

		return reinterpret_cast<Form_pg_sequence_data>(reinterpret_cast<char *>(tuple) +
													   tuple->t_hoff);
	}

	Relation relation;
	Buffer buffer;
};
static_assert(std::is_trivially_destructible_v<token_sequence>);

void
log_jump(int64 drawn)
{
	int64 ahead_of_clock = drawn - token_clock::wall_clock();

	if (ahead_of_clock > 0)
		ereport(LOG, (errmsg("fencing tokens of database \"%s\" go on %.1f s ahead of the clock",
							 get_database_name(MyDatabaseId),
							 static_cast<double>(ahead_of_clock) / USECS_PER_SEC),
					  errdetail("A new timeline began, and not all of the old one's log may be "
								"known. \"pglock.token_margin\" is %d s.",
								settings::token_margin)));
}

/* Waits about that many microseconds, unless something is asked of the session. */
void
wait_for(int64 microseconds)
{
	if (microseconds > 1000)
	{
		WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
				  static_cast<long>(microseconds / 1000 + 1), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
	CHECK_FOR_INTERRUPTS();
}

} // namespace

int64
draw_token()
{
	for (;;)
	{
		/* may read files, and nobody should have to wait for that at the page */
		timelines::history();

		token_sequence sequence;
		int64 bound = sequence.bound();
		int64 last = sequence.last();
		int64 now = token_clock::now();
		int64 ahead_of_clock = last - now;

		/* if it is more, as when the clock was set back, it may take too long to pass that again */
		if (ahead_of_clock >= 0 && ahead_of_clock <= ahead)
		{
			sequence.close();
			wait_for(ahead_of_clock);
			continue;
		}
		if (last > PG_INT64_MAX - 2 * ahead)
			ereport(ERROR, (errcode(ERRCODE_SEQUENCE_GENERATOR_LIMIT_EXCEEDED),
							errmsg("no fencing tokens are left"),
							errdetail("The sequence \"pglock.tokens\" has reached its maximum.")));

		int64 drawn = Max(last + 1, now);
		bool is_first_on_timeline = sequence.timelines_begun() > 0;

		/* PostgreSQL wants each who waits for standbys to wait for a place in the log of its own */
		if (drawn > bound || !sequence.is_logged_since_checkpoint() ||
			durability::waits_for_standbys(sequence.logged_up_to()))
			sequence.log_bound(Max(bound, drawn + ahead));
		sequence.set_last(drawn);

		XLogRecPtr logged_up_to = sequence.logged_up_to();

		sequence.close();
		if (is_first_on_timeline)
			log_jump(drawn);
		durability::await(logged_up_to, "the draw of a fencing token");
		return drawn;
	}
}

int64
token(const lock_key &key)
{
	context::check_no_parallel_worker();
	PreventCommandDuringRecovery("pglock.token()");
	PreventCommandIfReadOnly("pglock.token()");

	if (int64 *kept = holds::token_of(key))
	{
		if (*kept == 0)
			registry::store(*kept, draw_token());
		return *kept;
	}
	ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("lock %s is not held exclusively by this session", describe(key)),
					errdetail("A token belongs to the session that holds the lock exclusively."),
					errhint("Acquire the lock in exclusive mode first.")));
}
} // namespace pglock
