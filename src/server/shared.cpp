/*
 * shared.cpp: the shared memory of the extension.
 *
 * Before PostgreSQL 17 it is set aside when the server starts, so the library has to be preloaded.
 * From 17 on the server keeps named segments, which the first session that wants one creates. There
 * sessions with two versions of the library may meet, after a new one was installed: the names of
 * the segments carry the version of the layout, so that no session reads what it would misread.
 * They exclude each other all the same, and draw their tokens from one sequence, which is no
 * segment.
 */
#include "shared.hpp"

#include "compat.hpp"
#include "contention.hpp"
#include "module.hpp"
#include "registry.hpp"

/*
 * The version of the layout: another one when anything changes in the segments, or in the chunks
 * that the registry points to, be it only what a number means. The tests build a library with
 * another.
 */
#ifndef PGLOCK_LAYOUT
#define PGLOCK_LAYOUT 3
#endif

#define PGLOCK_SEGMENT "postgres_lock " CppAsString2(PGLOCK_LAYOUT)

namespace pglock::shared
{
namespace
{
/* The segment of all layouts, which never changes. */
struct meeting
{
	int layout; /* of the first session */
	pg_atomic_uint32 is_told;
};

/* What the parts are made by, and sessions that come later have to know. */
struct header
{
	int contended_keys; /* pglock.max_contended_keys when it was made */
	int tranche;		/* of the LWLocks */
};

header *found = nullptr;

shmem_request_hook_type previous_request_hook = nullptr;
shmem_startup_hook_type previous_startup_hook = nullptr;

void
initialize_meeting(void *memory)
{
	auto made = static_cast<meeting *>(memory);

	made->layout = PGLOCK_LAYOUT;
	pg_atomic_init_u32(&made->is_told, 0);
}

/* Says, once while the server runs, that sessions with another layout are there, or were. */
void
meet_others()
{
	auto others = static_cast<meeting *>(
		compat::shared_memory("postgres_lock", sizeof(meeting), initialize_meeting));

	if (others->layout != PGLOCK_LAYOUT && pg_atomic_exchange_u32(&others->is_told, 1) == 0)
		ereport(LOG,
				(errmsg("sessions with two versions of the library of postgres_lock are running"),
				 errdetail("Their locks exclude each other, but sessions with one do not see "
						   "what those with the other publish of theirs."),
				 errhint("End the sessions that began before the new library was installed.")));
}

void
initialize_header(void *memory)
{
	*static_cast<header *>(memory) = {settings::max_contended_keys,
									  compat::new_lwlock_tranche("pglock")};
}

void
initialize_registry(void *memory)
{
	registry::initialize(memory);
}

void
initialize_contention(void *memory)
{
	contention::initialize(memory, found->contended_keys, found->tranche);
}

void
attach(void *)
{
	meet_others();

	auto parts = static_cast<header *>(
		compat::shared_memory(PGLOCK_SEGMENT, sizeof(header), initialize_header));

	compat::name_lwlock_tranche(parts->tranche, "pglock");
	found = parts;
	registry::attach(compat::shared_memory(PGLOCK_SEGMENT " registry", registry::shared_size(),
										   initialize_registry));
	contention::attach(compat::shared_memory(PGLOCK_SEGMENT " contention",
											 contention::shared_size(parts->contended_keys),
											 initialize_contention));
}

void
request()
{
	if (previous_request_hook != nullptr)
		previous_request_hook();
	RequestAddinShmemSpace(sizeof(meeting));
	RequestAddinShmemSpace(sizeof(header));
	RequestAddinShmemSpace(registry::shared_size());
	RequestAddinShmemSpace(contention::shared_size(settings::max_contended_keys));
}

void
start_up()
{
	if (previous_startup_hook != nullptr)
		previous_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	attach(nullptr);
	LWLockRelease(AddinShmemInitLock);
}
/* Turns the error that was caught into a message of the server's log. */
void
log_failure()
{
	ErrorData *error = CopyErrorData();

	FlushErrorState();
	ereport(LOG, (errcode(error->sqlerrcode),
				  errmsg("postgres_lock cannot publish all of its locks: %s", error->message)));
	FreeErrorData(error);
}
} // namespace

void
prepare()
{
	if (compat::shared_memory_at_any_time || !process_shared_preload_libraries_in_progress)
		return;
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = request;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = start_up;
}

bool
is_on()
{
	constexpr int seconds_between_attempts = 60; /* each is logged, and it may fail for ever */
	static bool is_attached = false;
	static TimestampTz next_attempt_at = 0;

	if constexpr (!compat::shared_memory_at_any_time)
		return found != nullptr;
	if (!is_attached && InterruptHoldoffCount == 0 && GetCurrentTimestamp() >= next_attempt_at)
	{
		is_attached = attempt(attach, nullptr);
		next_attempt_at =
			TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 1000 * seconds_between_attempts);
	}
	return is_attached;
}

bool
attempt(void (*work)(void *), void *argument)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner caller = CurrentResourceOwner;
	ResourceOwner volatile owner = nullptr;
	volatile bool done = false;

	/*
	 * An error is not passed on, and there is no subtransaction to clean up after it. What shared
	 * memory takes is a resource owner and LWLocks: a resource owner is at hand, and that the
	 * caller has no LWLocks to lose is seen by the interrupts, which every LWLock holds off.
	 */
	if (InterruptHoldoffCount > 0)
		return false;

	PG_TRY();
	{
		hold_interrupts();
		owner = ResourceOwnerCreate(nullptr, "pglock");
		CurrentResourceOwner = owner;
		work(argument);
		resume_interrupts();
		done = true;
	}
	PG_CATCH();
	{
		LWLockReleaseAll();
		CurrentResourceOwner = caller;
		MemoryContextSwitchTo(context);
		log_failure();
	}
	PG_END_TRY();
	CurrentResourceOwner = caller;
	if (owner != nullptr)
	{
		/* the phase of shared memory segments; locks, of the next phase, it has none */
		ResourceOwnerRelease(owner, RESOURCE_RELEASE_BEFORE_LOCKS, done, false);
		ResourceOwnerDelete(owner);
	}
	return done;
}
} // namespace pglock::shared
