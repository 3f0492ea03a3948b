/*
 * shared.hpp: the shared memory of the extension.
 *
 * It has two parts, which know their layouts themselves: the registry (who holds what by which
 * name) and the contention statistics. Without it every lock function works.
 */
#pragma once

#include "pg.hpp"

namespace pglock::shared
{
/* To be called once, when the library is loaded. */
void prepare();

/*
 * Is there shared memory; makes it known to its parts when it is first asked for. Never raises:
 * where it can't be had, the server's log says why.
 */
bool is_on();

/*
 * Runs `work`, which allocates shared memory. False: it failed; what it began is undone, and the
 * server's log says why. Never raises.
 */
bool attempt(void (*work)(void *), void *argument);
} // namespace pglock::shared
