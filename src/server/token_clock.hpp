/*
 * token_clock.hpp: the clock that fencing tokens are drawn by, in microseconds since 1970.
 *
 * It is the wall clock, and for a while after a promotion ahead of it, so that it shows more than
 * the old primary's did. Not to be called on a standby.
 */
#pragma once

#include "pg.hpp"

namespace pglock::token_clock
{
/* How far ahead of the clock the bound of tokens is logged. */
constexpr int64 ahead = USECS_PER_SEC;

/* pglock.token_margin */
int64 margin();

int64 wall_clock();

int64 now();
} // namespace pglock::token_clock
