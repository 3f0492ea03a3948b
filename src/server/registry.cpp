/*
 * registry.cpp: what sessions publish of their locks, in shared memory.
 */
#include "registry.hpp"

#include "compat.hpp"
#include "shared.hpp"

#include <cstring>

namespace pglock::registry
{
namespace
{
/* One for each process that may take advisory locks. */
struct slot
{
	int pid; /* 0: the session has published nothing yet */
	Oid database;
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
set_version(record &r, uint32 version)
{
	/* all that was written before is seen by who sees the version, and nothing that comes after */
	pg_write_barrier();
	store(r.version, version);
	pg_write_barrier();
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
publish(record &r, const lock_key &key)
{
	Assert(!r.is_published());
	r.lock_id = key.lock_id;
	r.has_name = key.name.data() != nullptr;
	r.name_length = r.has_name ? show_name(key.name, r.name) : 0;
	memset(r.states, 0, sizeof(r.states));
	r.token = 0;
	r.waiting_since = 0;
	set_version(r, r.version + 1);
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
	set_version(r, r.version + 1);
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

/* The chunks of one session as far as they are mapped here. */
struct reader::mapping
{
	dsm_handle handles[max_chunks];
	dsm_segment *segments[max_chunks]; /* nullptr: the session dropped it meanwhile */
};

void
reader::begin()
{
	mappings = nullptr;
	if (!shared::is_on())
		return;
	mappings = static_cast<mapping *>(palloc0(sizeof(mapping) * static_cast<Size>(MaxBackends)));
	for (int process = 0; process < MaxBackends; process++)
	{
		const slot &of = shared->slots[process];

		if (load(of.pid) == 0 || of.database != MyDatabaseId || &of == mine)
			continue;
		for (int chunk = 1; chunk < max_chunks; chunk++)
		{
			dsm_handle handle = load(of.chunks[chunk]);

			mappings[process].handles[chunk] = handle;
			if (handle != DSM_HANDLE_INVALID)
				mappings[process].segments[chunk] = dsm_attach(handle);
		}
	}
}

bool
reader::has_missed(int process_number, int pid) const
{
	if (mappings == nullptr || load(shared->slots[process_number].pid) != pid)
		return false;
	for (int chunk = 1; chunk < max_chunks; chunk++)
	{
		dsm_handle handle = load(shared->slots[process_number].chunks[chunk]);

		if (handle != DSM_HANDLE_INVALID && handle != mappings[process_number].handles[chunk])
			return true;
	}
	return false;
}

void
reader::for_each(int process_number, int pid, void (*visit)(const record &, void *),
				 void *argument) const
{
	if (mappings == nullptr || load(shared->slots[process_number].pid) != pid)
		return;
	pg_read_barrier();
	for (int chunk = 0; chunk < max_chunks; chunk++)
	{
		const record *records = shared->slots[process_number].first_chunk;

		if (chunk > 0)
		{
			dsm_segment *segment = mappings[process_number].segments[chunk];

			if (segment == nullptr)
				continue;
			records = static_cast<const record *>(dsm_segment_address(segment));
		}
		for (uint32 i = 0; i < chunk_size(chunk); i++)
			visit(records[i], argument);
	}
}

void
reader::end()
{
	if (mappings == nullptr)
		return;
	for (int process = 0; process < MaxBackends; process++)
		for (dsm_segment *segment : mappings[process].segments)
			if (segment != nullptr)
				dsm_detach(segment);
	pfree(mappings);
	mappings = nullptr;
}

const record *
read(const record &r)
{
	uint32 version = load(r.version);

	pg_read_barrier();
	if (version % 2 != 0)
		return nullptr;

	bool has_name = load(r.has_name);

	pg_read_barrier();
	/* may be nonsense, if the record changes meanwhile */
	int name_length = Min(load(r.name_length), static_cast<int>(sizeof(r.name)) - 1);
	Size name_bytes = static_cast<Size>(Max(name_length, 0)) + 1;
	auto copy = static_cast<record *>(palloc(offsetof(record, name) + name_bytes));

	copy->version = version;
	copy->name_length = name_length;
	copy->has_name = has_name;
	copy->lock_id = r.lock_id;
	for (mode m : modes)
		for (scope s : scopes)
			copy->in(m, s) = {load(r.in(m, s).depth), load(r.in(m, s).since)};
	copy->token = load(r.token);
	copy->waiting_since = load(r.waiting_since);
	memcpy(copy->name, r.name, name_bytes);
	pg_read_barrier();
	if (load(r.version) == version)
		return copy;
	pfree(copy);
	return nullptr;
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
	return add_size(offsetof(area, slots), mul_size(sizeof(slot), static_cast<Size>(MaxBackends)));
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
