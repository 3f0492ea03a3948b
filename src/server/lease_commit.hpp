/*
 * lease_commit.hpp: how a transaction that releases leases commits.
 */
#pragma once

#include "pg.hpp"

#include <type_traits>

namespace pglock::lease_commit
{
/*
 * The release of a lease, from its construction to end(). A transaction that has written nothing
 * else need not wait for the disk when it commits: if the release is lost in a crash, the lease
 * only lives on until it expires.
 */
class release
{
  public:
	release();

	/* to be called by hand */
	void end();

  private:
	bool is_first_write;
};
static_assert(std::is_trivially_destructible_v<release>);
} // namespace pglock::lease_commit
