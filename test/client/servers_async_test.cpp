// The asynchronous locks on many servers: each key by the connection that server_of() names.
#include <future>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <postgres_lock/asio.hpp>

#include "servers.hpp"

using namespace std::chrono_literals;

TEST(AsyncServers, ArePickedByTheKey)
{
	server::libpq_sessions mine;
	server::libpq_sessions others;
	asio::io_context context;
	auto done = [&](auto &&future) {
		context.restart();
		context.run();
		return future.get();
	};

	for (std::size_t server = 0; server < mine.sessions.size(); server++)
	{
		std::string key = server::key_on(server);
		PGconn *connection = mine.sessions[pglock::server_of(key, mine.sessions.size())].get();
		auto guard = done(
			pglock::async_acquire(context, connection, key, {.timeout = 60s}, asio::use_future));
		std::vector<int> expected(4, 0);

		expected[server] = 1;
		EXPECT_EQ(server::count_locks(), expected);
		EXPECT_FALSE(pglock::try_guard(others.servers, key));
		done(guard.async_unlock(asio::use_future));
		EXPECT_TRUE(pglock::try_guard(others.servers, key));
	}
}
