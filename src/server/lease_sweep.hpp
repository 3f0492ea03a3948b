/*
 * lease_sweep.hpp: removing the leases that expired long ago, and that nobody has taken over.
 *
 * A lease of a key that is never used again is deleted by nobody. So each transaction that has
 * acquired a lease looks at one page of them, chosen at random: it adds one row at most, and
 * removes more than that where there are more.
 */
#pragma once

#include "pg.hpp"

namespace pglock::lease_sweep
{
/* When this transaction commits, it removes a few. */
void at_commit();
} // namespace pglock::lease_sweep
