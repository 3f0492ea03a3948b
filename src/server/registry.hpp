/*
 * registry.hpp: what sessions publish of their locks, in shared memory.
 *
 * The protocol:
 *
 * - Every session has a slot, found by its number among the server's processes, with a few records
 * in it, one for each lock. One that needs more adds chunks of records, each twice as large as the
 * one before, in dynamic shared memory of its own, which ends with the session at the latest.
 * - Only the session itself writes to its slot and its records. For that it takes no lock, waits
 * for nobody and raises nothing: if there is no memory for a chunk, its records are private.
 * - Anybody reads. A record is published while its version is even. Its id and name change only
 * while it is odd; a reader that meets that, or sees that the version has changed meanwhile, takes
 * the record for not published. All else is single words, each of which may change at any time.
 * - Records only annotate what the lock manager knows, and are read while its table is kept from
 *   changing (see lock_table.hpp). A lock is published before the lock manager is asked for it, and
 *   taken back after it has been given back to it. So whoever finds a lock in the table finds its
 *   record, whole.
 */
#pragma once

#include "key.hpp"
#include "lock.hpp"

namespace pglock::registry
{
/* Words that one session writes while others read them. */

template <typename Word>
Word
load(const Word &word)
{
	return __atomic_load_n(&word, __ATOMIC_RELAXED);
}

template <typename Word>
void
store(Word &word, Word value)
{
	__atomic_store_n(&word, value, __ATOMIC_RELAXED);
}

/* A lock in one mode and scope. */
struct hold_state
{
	int64 depth;	   /* 0: neither held nor asked for */
	TimestampTz since; /* 0: asked for; or granted, but the session has not run since */
};

/* What a session publishes of one lock. */
struct record
{
	uint32 version; /* odd: not published */
	int name_length;
	bool has_name;
	int64 lock_id;
	hold_state states[2][2];   /* by mode and scope */
	int64 token;			   /* of the exclusive possession; 0: none was drawn */
	TimestampTz waiting_since; /* 0: it does not wait */
	shown_name_buffer name;

	hold_state &
	in(mode m, scope s)
	{
		return states[static_cast<int>(m)][static_cast<int>(s)];
	}

	const hold_state &
	in(mode m, scope s) const
	{
		return states[static_cast<int>(m)][static_cast<int>(s)];
	}

	bool
	is_published() const
	{
		return version % 2 == 0;
	}
};
static_assert(std::is_trivially_destructible_v<record>);

/*
 * Writing: a session's own records
 */

/* Publishes a record, of a lock that is neither held nor asked for. */
void publish(record &r, const lock_key &key);

/* Gives a published record that has none its name. */
void set_name(record &r, std::string_view name);

/* Takes a record back. */
void take_back(record &r);

constexpr int max_chunks = 20;

/* How many records a chunk has. */
constexpr uint32
chunk_size(int chunk)
{
	return chunk == 0 ? 8 : 64u << (chunk - 1);
}

/*
 * The records of the next chunk of this session, zeroed or once used; nullptr: there is no memory.
 * Chunk 0 comes first and is never dropped.
 */
record *add_chunk(int chunk);

/* Gives the memory of the last chunk back; no record of it is published. */
void drop_chunk(int chunk);

/*
 * Reading: the records of other sessions
 */

class reader
{
  public:
	/* Gets ready, while the lock table may change: it takes its time, and may raise. */
	void begin();

	/* Has that session more records than could be read since begin(). */
	bool has_missed(int process_number, int pid) const;

	/* Calls `visit(record, argument)` for each record of that session; see read(). */
	void for_each(int process_number, int pid, void (*visit)(const record &, void *),
				  void *argument) const;

	void end();

  private:
	struct mapping;

	mapping *mappings; /* by process number; nullptr: the registry is off */
};

/*
 * A copy of a record, with no more room than its name needs, in the current memory context;
 * nullptr: the record is not published.
 */
const record *read(const record &r);

/* Bytes of shared memory that the registry takes. */
uint64 size();

/*
 * Setting up: see shared.hpp
 */

Size shared_size();
void initialize(void *memory);
void attach(void *memory);
} // namespace pglock::registry
