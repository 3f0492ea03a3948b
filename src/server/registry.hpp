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
 * - Records only annotate what the lock manager knows, and fit what its table says at one moment
 * (see lock_table.hpp). A lock is published before the lock manager is asked for it, and taken back
 * after it has been given back to it. So whoever finds a lock in the table finds its record, whole.
 * - The table is kept from changing for a short time only. So a reader copies all records before,
 *   and then only those again whose session has changed any since: a session counts its changes, in
 *   the order in which it makes them.
 * - Whom a session takes its locks for is published beside its records, with a version of its own.
 */
#pragma once

#include "arena.hpp"
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

/* How often this session has changed what it publishes. */
extern uint32 *changes;

inline void
count_change()
{
	/* whoever sees the count sees the change */
	__atomic_store_n(changes, *changes + 1, __ATOMIC_RELEASE);
}

template <typename Word>
void
store(Word &word, Word value)
{
	__atomic_store_n(&word, value, __ATOMIC_RELAXED);
	count_change();
}

/* A lock in one mode and scope. */
struct hold_state
{
	int64 depth;	   /* 0: neither held nor asked for */
	TimestampTz since; /* 0: asked for; or granted, but the session has not run since */
};

/* What is known of a lock that a session holds, beside its name. */
struct annotation
{
	hold_state states[2][2];   /* by mode and scope */
	bool has_builtins[2];	   /* by mode: also held at a scope at which only built-ins took it */
	int64 token;			   /* of the exclusive possession; 0: none was drawn */
	TimestampTz waiting_since; /* 0: it does not wait */

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
};

/* What a session publishes of one lock. */
struct record : annotation
{
	uint32 version; /* odd: not published */
	int name_length;
	bool has_name;
	lockable what;
	shown_name_buffer name;

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

/*
 * Publishes whom the session says it takes locks for, shortened as names are, and in which what is
 * no text in this database's encoding is replaced; empty: nobody. What it says before it has taken
 * a lock is published with the first. Never raises.
 */
void publish_holder(const char *holder);

/* The same of this session, whether it has published it or not; nullptr: nobody. Raises 53200. */
const text *own_holder();

/* Publishes a record, of a lock that is neither held nor asked for. */
void publish(record &r, const lock_key &key);

/* Gives a published record that has none its name. */
void set_name(record &r, std::string_view name);

/* Takes a record back. */
void take_back(record &r);

/* Publishes in a record what another one says, which nobody else could read. */
void publish_copy(record &r, const record &of);

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
 * Reading
 */

/*
 * A copy of a record, and behind it the name. There may be very many, so it is short where there is
 * only one state, as with most locks.
 */
struct publication
{
	lockable what;
	uint32 version;
	bool has_name;
	mode only_mode;
	scope only_scope;
	hold_state only;
	annotation *whole; /* nullptr: there is only that state */

	const text *
	name() const
	{
		return has_name ? reinterpret_cast<const text *>(this + 1) : nullptr;
	}

	hold_state
	in(mode m, scope s) const
	{
		return whole != nullptr					   ? whole->in(m, s)
			   : m == only_mode && s == only_scope ? only
												   : hold_state{};
	}

	bool
	has_builtins(mode m) const
	{
		return whole != nullptr && whole->has_builtins[static_cast<int>(m)];
	}

	int64
	token() const
	{
		return whole != nullptr ? whole->token : 0;
	}

	TimestampTz
	waiting_since() const
	{
		return whole != nullptr ? whole->waiting_since : 0;
	}
};
static_assert(std::is_trivially_destructible_v<publication>);

/* Copies a record; nullptr: it is not published. Raises 53200. */
publication *copy(const record &r, arena &to);

/* What the other sessions of this database publish. */
class reader
{
  public:
	/*
	 * Copies it, of all sessions or of one process only, in the current memory context. It takes
	 * its time, and may raise. Where another session has taken that process's place, it is nothing.
	 */
	void begin();
	void begin(int process_number, int pid);

	/*
	 * Brings what was copied of that session up to date, while the lock table can't change. False:
	 * the session has got more memory since begin(), which can't be read. May raise.
	 */
	bool catch_up(int process_number, int pid);

	/* Whom the session says it takes locks for; nullptr: nobody. */
	const text *
	holder(int process_number) const
	{
		return sessions != nullptr && sessions[process_number] != nullptr
				   ? sessions[process_number]->holder
				   : nullptr;
	}

	/* Calls `visit(publication)` for each lock that the session publishes. */
	template <typename Visit> void for_each(int process_number, Visit visit) const;

	/* Forgets all that was copied. */
	void end();

  private:
	struct chunk
	{
		dsm_handle handle;
		dsm_segment *segment;  /* of chunk 0 there is none */
		const record *records; /* nullptr: not there, or the session has dropped it */
		publication **copies;  /* by record; nullptr: not published */
	};

	struct session
	{
		int pid; /* 0: nothing was copied yet */
		uint32 changes;
		const text *holder; /* nullptr: none */
		chunk chunks[max_chunks];
	};

	void prepare();
	void read(int process_number);
	session &open(int process_number);
	void map_chunks(int process_number);
	void copy_chunk(chunk &of, uint32 size);
	void copy_session(int process_number, int pid);
	const text *copy_holder(int process_number);
	static void forget(session &of);

	MemoryContext memory;
	arena copies;
	session **sessions; /* by process number, nullptr: publishes nothing; itself: registry is off */
};

template <typename Visit>
void
reader::for_each(int process_number, Visit visit) const
{
	if (sessions == nullptr || sessions[process_number] == nullptr)
		return;
	for (int i = 0; i < max_chunks; i++)
		if (publication **copies = sessions[process_number]->chunks[i].copies; copies != nullptr)
			for (uint32 j = 0; j < chunk_size(i); j++)
				if (copies[j] != nullptr)
					visit(*copies[j]);
}

/* Bytes of shared memory that the registry takes. */
uint64 size();

/*
 * Setting up: see shared.hpp
 */

Size shared_size();
void initialize(void *memory);
void attach(void *memory);
} // namespace pglock::registry
