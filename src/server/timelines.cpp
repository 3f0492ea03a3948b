/*
 * timelines.cpp: the timelines that the server's log has gone through.
 *
 * The server that is promoted writes the history of the new timeline to a file, as it was until
 * then. So the file's time is that of the promotion; on a server that the file was copied to it may
 * be later.
 */
#include "timelines.hpp"

#include <sys/stat.h>

namespace pglock::timelines
{
namespace
{
TimestampTz
since(TimeLineID id)
{
	char path[MAXPGPATH];
	struct stat file;

	TLHistoryFilePath(path, id);
	/* fractions of a second are cut off, but it must not seem earlier than it was */
	return stat(path, &file) == 0 ? time_t_to_timestamptz(file.st_mtime + 1) : 0;
}
} // namespace

std::span<const timeline>
history()
{
	static std::span<timeline> known;
	static TimeLineID known_of = 0;
	TimeLineID current = GetWALInsertionTimeLine();

	if (known_of == current)
		return known;

	List *read = readTimeLineHistory(current);
	auto count = static_cast<size_t>(list_length(read));
	auto timelines =
		static_cast<timeline *>(MemoryContextAlloc(TopMemoryContext, count * sizeof(timeline)));

	/* PostgreSQL has the newest first */
	for (size_t i = 0; i < count; i++)
	{
		auto entry = static_cast<const TimeLineHistoryEntry *>(
			list_nth(read, static_cast<int>(count - 1 - i)));

		timelines[i] = {entry->begin, since(entry->tli)};
	}
	list_free_deep(read);
	if (!known.empty())
		pfree(known.data());
	known = {timelines, count};
	known_of = current;
	return known;
}

int
begun_since(XLogRecPtr logged_up_to)
{
	int begun = 0;

	/* a record that ends where a timeline begins is of the one before */
	for (const timeline &t : history())
		if (t.begin != InvalidXLogRecPtr && t.begin >= logged_up_to)
			begun++;
	return begun;
}
} // namespace pglock::timelines
