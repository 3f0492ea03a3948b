// Leases behind a pooler that gives each transaction one of two sessions: libpq's environment leads
// there.
#include <memory>
#include <optional>
#include <utility>

#include <postgres_lock/keeper.hpp>

#include "handler.hpp"
#include "pool.hpp"
#include "server.hpp"
#include "stop.hpp"

namespace
{
using namespace std::chrono_literals;
using pglock::lease;
using pglock::lease_guard;
using server::libpq_session;

pglock::connection_ref
connect()
{
	return std::unique_ptr<PGconn, decltype(&PQfinish)>(PQconnectdb(""), PQfinish);
}

TEST(pooler, leases_are_used_over_whatever_session_there_is)
{
	failures heard;
	narrow_pool pool;
	libpq_session client, other;
	{
		lease_guard guard(client.get(), "pooled");

		for (int i = 0; i < 4; i++)
		{
			pool.change_session();
			EXPECT_TRUE(guard.renew());
			client.begin();
			guard.check();
			client.commit();
			EXPECT_FALSE(lease::acquire(other.get(), "pooled", {.timeout = 0s}));
		}
	}
	EXPECT_TRUE(lease::acquire(other.get(), "pooled", {.timeout = 0s})->release(other.get()));
	EXPECT_TRUE(heard.all().empty());
}

TEST(pooler, a_client_that_goes_leaves_its_lease)
{
	std::optional<libpq_session> client(std::in_place);
	libpq_session other;
	lease held = lease::acquire(client->get(), "pooled", {.ttl = 200ms}).value();

	client.reset();

	lease next = lease::acquire(other.get(), "pooled").value();

	EXPECT_GT(next.token(), held.token());
	EXPECT_TRUE(held.expired());
	EXPECT_THROW(held.check(other.get()), pglock::lease_lost);
	EXPECT_TRUE(next.release(other.get()));
}

TEST(pooler, a_keeper_needs_but_a_session_now_and_then)
{
	narrow_pool pool;
	libpq_session client;
	lease_guard guard(client.get(), "pooled", {.ttl = 1500ms});
	pglock::keeper keeper(connect);
	pglock::kept kept = keeper.keep(guard);
	auto first = guard.lease().deadline();

	EXPECT_TRUE(soon([&] {
		pool.change_session();
		return guard.lease().deadline() > first + 1s;
	}));
	EXPECT_FALSE(kept.stop_token().stop_requested());
	client.query("SELECT pglock.revoke_lease('pooled')");
	(void)stop_of(kept.stop_token());
	EXPECT_TRUE(guard.expired());
}
} // namespace
