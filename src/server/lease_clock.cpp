/*
 * lease_clock.cpp: the time that leases are counted by.
 *
 * A server can be written to from when its WAL writer starts: the postmaster starts that after
 * recovery, after a crash of a backend, and after a promotion, which all begin a run. When that was
 * by our clock the operating system knows of the process; by the wall clock, which may have been
 * set since, only where it doesn't.
 */
#include "lease_clock.hpp"

#include "compat.hpp"
#include "module.hpp"
#include "steady_clock.hpp"
#include "timelines.hpp"

#include <unistd.h>

namespace pglock::lease_clock
{
namespace
{
/* When a process began, by steady_clock::now(); 0: not known. */
int64
start_of_process([[maybe_unused]] int pid)
{
#ifdef __linux__
	constexpr int fields_between =
		19; /* proc(5): from the state, the 3rd, to starttime, the 22nd */
	char line[2048];
	FILE *file = AllocateFile(psprintf("/proc/%d/stat", pid), "r");

	if (file == nullptr)
		return 0;

	size_t length = fread(line, 1, sizeof(line) - 1, file);

	FreeFile(file);
	line[length] = '\0';

	/* the name of the program may contain anything, and ends with the last parenthesis */
	const char *at = strrchr(line, ')');

	at = at != nullptr ? strchr(at, ' ') : nullptr;
	for (int i = 0; i < fields_between && at != nullptr; i++)
		at = strchr(at + 1, ' ');
	if (at == nullptr)
		return 0;
	/* ticks are cut off, but a run must not seem to have begun before it did */
	return (strtoll(at, nullptr, 10) + 1) * (USECS_PER_SEC / sysconf(_SC_CLK_TCK));
#else
	return 0;
#endif
}

/* When the server could be written to, by steady_clock::now(); 0: it still begins. */
int64
find_start()
{
	pgstat_clear_backend_activity_snapshot();

	const PgBackendStatus *writer = nullptr;

	compat::for_each_backend_status([&](const PgBackendStatus &status, int) {
		if (status.st_backendType == B_WAL_WRITER)
			writer = &status;
	});
	if (writer == nullptr)
		return 0;

	int64 at = steady_clock::now();
	int64 start = start_of_process(writer->st_procpid);

	if (start == 0)
		start = at - (GetCurrentTimestamp() - writer->st_proc_start_timestamp);
	return Min(start, at);
}

/* Did the server become what it is by a promotion since its postmaster started. */
bool
is_promoted()
{
	return timelines::history().back().since >= PgStartTime;
}
} // namespace

run
current_run()
{
	static run known = {};
	int64 random = static_cast<const PGShmemHeader *>(UsedShmemSegAddr)->dsm_control;
	int64 id = random << 32 | GetWALInsertionTimeLine();

	if (known.id == id)
		return known;

	run current = {id, find_start()};

	if (current.began == 0)
		current.began = steady_clock::now();
	else
		known = current;
	return current;
}

int64
opens_at()
{
	if (settings::lease_grace == 0 || !is_promoted())
		return 0;
	return current_run().began + settings::lease_grace * USECS_PER_SEC;
}
} // namespace pglock::lease_clock
