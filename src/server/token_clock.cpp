/*
 * token_clock.cpp: the clock that fencing tokens are drawn by.
 *
 * A server that is promoted may lack the end of the old primary's log, and with it tokens that were
 * drawn by that one's clock. So its own clock has to begin above them. If the clock before it
 * showed P at the promotion, then after the time t it shows
 *
 *     P + D + t / 2
 *
 * until the wall clock has caught up, after 2 D. It never goes back, so a sequence that is made
 * anew, by DROP and CREATE EXTENSION or as a copy, goes on above what was drawn from another one by
 * this clock. And it is slower than the wall clock, so that the next server to be promoted, which
 * is ahead by D of its own, begins above it, even if it has heard nothing of this promotion.
 *
 * The clock before it is the old primary's, as far as that is known here: ahead after promotions
 * before this one, and not behind the last commit in the old primary's log. The time of that commit
 * is forgotten when the server is restarted. Then a clock that is further behind the old primary's
 * than D allows for shows too little, and tokens grow only because the sequence does.
 *
 * D is twice pglock.token_margin, and `ahead`. Once is what a sequence that exists goes on by,
 * above a bound that is `ahead` of the old primary's clock; the other allows for that clock to have
 * been further than is known here, so that one that is made anew after that does not begin below.
 */
#include "token_clock.hpp"

#include "module.hpp"
#include "timelines.hpp"

namespace pglock::token_clock
{
namespace
{
int64
microseconds_since_1970(TimestampTz time)
{
	return time + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * INT64CONST(86400) * USECS_PER_SEC;
}

/* The last promotion, by the wall clock, and what the clock before it may have shown then. */
struct promotion
{
	int64 at;
	int64 shown;
};

int64
time_after(const promotion &last, int64 wall_clock)
{
	return Max(wall_clock, last.shown + 2 * margin() + ahead + (wall_clock - last.at) / 2);
}

/* The time of the last commit that was replayed before the promotion that this run began with. */
TimestampTz
last_replayed_commit()
{
	TimeLineID timeline;

	GetXLogReplayRecPtr(&timeline);
	/* after a crash it is this timeline that was replayed, by our own clock */
	return timeline != GetWALInsertionTimeLine() ? GetLatestXTime() : 0;
}

/* None was ever: it was in 1970. */
const promotion &
last_promotion()
{
	static promotion last;
	static TimeLineID timeline = 0;
	static int margin = 0;

	if (timeline == GetWALInsertionTimeLine() && margin == settings::token_margin)
		return last;

	std::span<const timelines::timeline> history = timelines::history();

	last = {0, 0};
	for (const timelines::timeline &t : history)
		if (t.since != 0)
		{
			TimestampTz known = &t == &history.back() ? last_replayed_commit() : 0;
			int64 at = microseconds_since_1970(t.since);

			last = {at, time_after(last, Max(at, microseconds_since_1970(known)))};
		}
	timeline = GetWALInsertionTimeLine();
	margin = settings::token_margin;
	return last;
}
} // namespace

int64
margin()
{
	return settings::token_margin * USECS_PER_SEC;
}

int64
wall_clock()
{
	return microseconds_since_1970(GetCurrentTimestamp());
}

int64
now()
{
	return margin() == 0 ? wall_clock() : time_after(last_promotion(), wall_clock());
}
} // namespace pglock::token_clock
