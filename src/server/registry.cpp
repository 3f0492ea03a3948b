/*
 * registry.cpp: what sessions publish of their locks, in shared memory.
 */
#include "registry.hpp"

#include "compat.hpp"
#include "module.hpp"
#include "shared.hpp"

#include <cstring>

namespace pglock::registry
{
/* before there is a slot, or where there is none */
static uint32 private_changes;
uint32 *changes = &private_changes;

namespace
{
/* Whom a session takes its locks for, as it says. */
struct published_holder
{
	uint32 version; /* odd: not published */
	int length;
	shown_name_buffer name;
};

/* One for each process that may take advisory locks. */
struct slot
{
	int pid; /* 0: the session has published nothing yet */
	Oid database;
	uint32 changes;
	published_holder holder;
	dsm_handle chunks[max_chunks]; /* DSM_HANDLE_INVALID: not there; the first is below */
	record first_chunk[chunk_size(0)];
};

/* All of the shared memory: MaxBackends slots behind a counter. */
struct area
{
	pg_atomic_uint64 chunk_bytes; /* of all sessions; changes when a chunk comes or goes */
	slot slots[FLEXIBLE_ARRAY_MEMBER];
};

area *shared = nullptr;

/* This session's. */
slot *mine = nullptr;
dsm_segment *segments[max_chunks];

Size
chunk_bytes(int chunk)
{
	return sizeof(record) * chunk_size(chunk);
}

void
set_version(uint32 &of, uint32 version)
{
	/* all that was written before is seen by who sees the version, and nothing that comes after */
	pg_write_barrier();
	store(of, version);
	pg_write_barrier();
}

template <typename Word>
Word
load_first(const Word &word)
{
	return __atomic_load_n(&word, __ATOMIC_ACQUIRE);
}

/* Forgets the chunk, if that is not done yet; its memory is another matter. */
void
hide_chunk(int chunk)
{
	if (mine->chunks[chunk] == DSM_HANDLE_INVALID)
		return;
	store(mine->chunks[chunk], static_cast<dsm_handle>(DSM_HANDLE_INVALID));
	pg_atomic_fetch_sub_u64(&shared->chunk_bytes, static_cast<int64>(chunk_bytes(chunk)));
}

/*
 * The session ends. Its locks go first, as ShutdownPostgres() would have it a little later: whoever
 * finds them finds their records. What is mapped stays so until the server unmaps it.
 */
void
leave(int, Datum)
{
	AbortOutOfAnyTransaction();
	LockReleaseAll(USER_LOCKMETHOD, true);
	store(mine->pid, 0);
	for (int chunk = 1; chunk < max_chunks; chunk++)
		hide_chunk(chunk);
}

void
write_text(published_holder &to, const char *holder)
{
	to.length = show_name(holder, to.name);
	/* a setting of a role, or of the server, may be from where another encoding is used */
	if (!pg_verifymbstr(to.name, to.length, true))
		for (char *byte = to.name; *byte != '\0'; byte++)
			if (IS_HIGHBIT_SET(*byte))
				*byte = '?';
}

void
write_holder(published_holder &to, const char *holder)
{
	/* whoever had the slot before may have ended while it wrote */
	uint32 version = to.version | 1;

	set_version(to.version, version);
	write_text(to, holder);
	set_version(to.version, version + 1);
}

/* Takes the session's slot, which another one may have left. */
void
enter()
{
	static bool is_entered = false;

	if (is_entered)
		return;
	is_entered = true;
	mine = &shared->slots[compat::my_process_number()];
	for (record &r : mine->first_chunk)
		if (r.is_published())
			take_back(r);
	changes = &mine->changes;
	write_holder(mine->holder, settings::holder);
	mine->database = MyDatabaseId;
	pg_write_barrier();
	store(mine->pid, MyProcPid);
	before_shmem_exit(leave, 0);
}

struct new_chunk
{
	Size bytes;
	dsm_segment *segment;
};

void
create_segment(void *argument)
{
	auto wanted = static_cast<new_chunk *>(argument);

	wanted->segment = dsm_create(wanted->bytes, 0);
	dsm_pin_mapping(wanted->segment);
}
} // namespace

void
publish_holder(const char *holder)
{
	if (mine != nullptr)
		write_holder(mine->holder, holder);
}

const text *
own_holder()
{
	published_holder own = {};

	write_text(own, settings::holder);
	return own.length > 0 ? cstring_to_text_with_len(own.name, own.length) : nullptr;
}

void
publish(record &r, const lock_key &key)
{
	Assert(!r.is_published());
	r.what = key;
	r.has_name = key.name.data() != nullptr;
	r.name_length = r.has_name ? show_name(key.name, r.name) : 0;
	static_cast<annotation &>(r) = {};
	set_version(r.version, r.version + 1);
}

void
set_name(record &r, std::string_view name)
{
	/* nobody reads a name that is not there: the record can stay published */
	r.name_length = show_name(name, r.name);
	pg_write_barrier();
	store(r.has_name, true);
}

void
take_back(record &r)
{
	set_version(r.version, r.version + 1);
}

void
publish_copy(record &r, const record &of)
{
	record copy = of;

	Assert(!r.is_published());
	/* at no moment may it seem to be whole before it is */
	copy.version = r.version;
	r = copy;
	set_version(r.version, r.version + 1);
}

record *
add_chunk(int chunk)
{
	if (!shared::is_on() || chunk >= max_chunks)
		return nullptr;
	enter();
	if (chunk == 0)
		return mine->first_chunk;

	new_chunk wanted = {chunk_bytes(chunk), nullptr};

	if (!shared::attempt(create_segment, &wanted))
		return nullptr;

	auto records = static_cast<record *>(dsm_segment_address(wanted.segment));

	for (uint32 i = 0; i < chunk_size(chunk); i++)
		records[i].version = 1;
	segments[chunk] = wanted.segment;
	pg_atomic_fetch_add_u64(&shared->chunk_bytes, static_cast<int64>(wanted.bytes));
	pg_write_barrier();
	store(mine->chunks[chunk], dsm_segment_handle(wanted.segment));
	return records;
}

void
drop_chunk(int chunk)
{
	hide_chunk(chunk);
	/* who reads it has a mapping of its own, which stays */
	dsm_detach(segments[chunk]);
	segments[chunk] = nullptr;
}

static annotation
load_words(const record &from)
{
	annotation to;

	for (mode m : modes)
	{
		to.has_builtins[static_cast<int>(m)] = load(from.has_builtins[static_cast<int>(m)]);
		for (scope s : scopes)
			to.in(m, s) = {load(from.in(m, s).depth), load(from.in(m, s).since)};
	}
	to.token = load(from.token);
	to.waiting_since = load(from.waiting_since);
	return to;
}

/* Does a state say all that an annotation does: then it becomes the only one. */
static bool
set_only_state(publication &p, const annotation &words)
{
	bool has_state = false;

	for (mode m : modes)
		for (scope s : scopes)
		{
			const hold_state &state = words.in(m, s);

			if (state.depth == 0 && state.since == 0)
				continue;
			if (has_state)
				return false;
			has_state = true;
			p.only_mode = m;
			p.only_scope = s;
			p.only = state;
		}
	return !words.has_builtins[0] && !words.has_builtins[1] && words.token == 0 &&
		   words.waiting_since == 0;
}

static void
set_words(publication &p, const annotation &words, arena &to)
{
	p.only_mode = mode::exclusive;
	p.only_scope = scope::session;
	p.only = {};
	if (set_only_state(p, words))
	{
		p.whole = nullptr;
		return;
	}
	if (p.whole == nullptr)
	{
		p.whole = static_cast<annotation *>(to.reserve(sizeof(annotation)));
		to.take(sizeof(annotation));
	}
	*p.whole = words;
}

publication *
copy(const record &r, arena &to)
{
	uint32 version = load_first(r.version);

	if (version % 2 != 0)
		return nullptr;

	auto made = static_cast<publication *>(
		to.reserve(sizeof(publication) + VARHDRSZ + sizeof(shown_name_buffer)));
	Size name_bytes = 0;

	/* may be nonsense, if the record changes meanwhile */
	made->what = {load(r.what.lock_id), load(r.what.slot)};
	made->version = version;
	made->has_name = load_first(r.has_name);
	made->whole = nullptr;
	if (made->has_name)
	{
		auto name = reinterpret_cast<text *>(made + 1);
		int length = Min(load(r.name_length), static_cast<int>(sizeof(r.name)) - 1);

		name_bytes = VARHDRSZ + static_cast<Size>(Max(length, 0));
		SET_VARSIZE(name, name_bytes);
		memcpy(VARDATA(name), r.name, name_bytes - VARHDRSZ);
	}

	annotation words = load_words(r);

	pg_read_barrier();
	if (load(r.version) != version)
		return nullptr;
	to.take(sizeof(publication) + name_bytes);
	set_words(*made, words, to);
	return made;
}

/* The session in that slot publishes nothing now. */
static bool
is_empty(const slot &of)
{
	for (const record &r : of.first_chunk)
		if (load(r.version) % 2 == 0)
			return false;
	for (const dsm_handle &chunk : of.chunks)
		if (load(chunk) != DSM_HANDLE_INVALID)
			return false;
	return true;
}

reader::session &
reader::open(int process_number)
{
	session *&opened = sessions[process_number];

	if (opened == nullptr)
	{
		opened = static_cast<session *>(MemoryContextAllocZero(memory, sizeof(session)));
		opened->chunks[0].records = shared->slots[process_number].first_chunk;
	}
	return *opened;
}

void
reader::map_chunks(int process_number)
{
	session &of = open(process_number);

	for (int i = 1; i < max_chunks; i++)
	{
		chunk &mapped = of.chunks[i];

		mapped.handle = load(shared->slots[process_number].chunks[i]);
		if (mapped.handle == DSM_HANDLE_INVALID)
			continue;
		mapped.segment = dsm_attach(mapped.handle);
		if (mapped.segment != nullptr)
			mapped.records = static_cast<const record *>(dsm_segment_address(mapped.segment));
	}
}

void
reader::forget(session &of)
{
	of.pid = 0;
	of.holder = nullptr;
	for (chunk &c : of.chunks)
		c.copies = nullptr;
}

void
reader::copy_chunk(chunk &of, uint32 size)
{
	if (of.copies == nullptr)
		of.copies = static_cast<publication **>(
			MemoryContextAllocZero(memory, sizeof(publication *) * size));
	for (uint32 i = 0; i < size; i++)
	{
		const record &r = of.records[i];
		publication *&copied = of.copies[i];
		uint32 version = load_first(r.version);

		if (version % 2 != 0)
			copied = nullptr;
		else if (copied != nullptr && copied->version == version &&
				 copied->has_name == load(r.has_name))
			set_words(*copied, load_words(r), copies);
		else
			copied = copy(r, copies);
	}
}

const text *
reader::copy_holder(int process_number)
{
	const published_holder &from = shared->slots[process_number].holder;
	uint32 version = load_first(from.version);
	int length = load(from.length); /* may be nonsense, if it changes meanwhile */

	if (version % 2 != 0 || length <= 0)
		return nullptr;
	length = Min(length, static_cast<int>(sizeof(from.name)) - 1);

	text *made = cstring_to_text_with_len(from.name, length);

	pg_read_barrier();
	return load(from.version) == version ? made : nullptr;
}

/* Copies what is mapped, and has not been copied yet, or may have changed since. */
void
reader::copy_session(int process_number, int pid)
{
	session &of = open(process_number);

	if (of.pid != pid)
		forget(of);
	of.pid = pid;
	of.holder = copy_holder(process_number);
	for (int i = 0; i < max_chunks; i++)
		if (of.chunks[i].records != nullptr)
			copy_chunk(of.chunks[i], chunk_size(i));
}

void
reader::prepare()
{
	sessions = nullptr;
	if (!shared::is_on())
		return;
	memory = AllocSetContextCreate(CurrentMemoryContext, "pglock registry", ALLOCSET_DEFAULT_SIZES);
	copies = arena(memory);
	sessions = static_cast<session **>(
		MemoryContextAllocZero(memory, sizeof(session *) * static_cast<Size>(MaxBackends)));
}

void
reader::read(int process_number)
{
	const slot &of = shared->slots[process_number];
	int pid = load_first(of.pid);

	if (pid == 0 || of.database != MyDatabaseId || &of == mine || is_empty(of))
		return;
	/* first: what changes meanwhile, be it by a chunk more, is looked at once more */
	open(process_number).changes = load_first(of.changes);
	map_chunks(process_number);
	copy_session(process_number, pid);
}

void
reader::begin()
{
	prepare();
	for (int process = 0; process < MaxBackends && sessions != nullptr; process++)
		read(process);
}

void
reader::begin(int process_number, int pid)
{
	prepare();
	if (sessions == nullptr || process_number >= MaxBackends)
		return;
	read(process_number);
	/* who takes the place writes nothing before this has changed */
	pg_read_barrier();
	if (sessions[process_number] != nullptr && load(shared->slots[process_number].pid) != pid)
		forget(*sessions[process_number]);
}

bool
reader::catch_up(int process_number, int pid)
{
	if (sessions == nullptr)
		return true;

	const slot &of = shared->slots[process_number];
	bool is_whole = true;

	if (load(of.pid) != pid)
	{
		if (sessions[process_number] != nullptr)
			forget(*sessions[process_number]);
		return true;
	}

	session &known = open(process_number);

	if (known.pid == pid && known.changes == load_first(of.changes))
		return true;
	for (int i = 1; i < max_chunks; i++)
	{
		dsm_handle handle = load(of.chunks[i]);

		if (known.chunks[i].handle == handle)
			continue;
		known.chunks[i].records = nullptr;
		known.chunks[i].copies = nullptr;
		is_whole = is_whole && handle == DSM_HANDLE_INVALID;
	}
	copy_session(process_number, pid);
	return is_whole;
}

void
reader::end()
{
	if (sessions == nullptr)
		return;
	for (int process = 0; process < MaxBackends; process++)
		if (sessions[process] != nullptr)
			for (chunk &c : sessions[process]->chunks)
				if (c.segment != nullptr)
					dsm_detach(c.segment);
	MemoryContextDelete(memory);
	sessions = nullptr;
}

uint64
size()
{
	if (!shared::is_on())
		return 0;
	return shared_size() + pg_atomic_read_u64(&shared->chunk_bytes);
}

Size
shared_size()
{
	return add_size(sizeof(area), mul_size(sizeof(slot), static_cast<Size>(MaxBackends)));
}

void
initialize(void *memory)
{
	auto made = static_cast<area *>(memory);

	memset(memory, 0, shared_size());
	pg_atomic_init_u64(&made->chunk_bytes, 0);
	for (int i = 0; i < MaxBackends; i++)
	{
		for (dsm_handle &handle : made->slots[i].chunks)
			handle = DSM_HANDLE_INVALID;
		for (record &r : made->slots[i].first_chunk)
			r.version = 1;
	}
}

void
attach(void *memory)
{
	shared = static_cast<area *>(memory);
}
} // namespace pglock::registry
