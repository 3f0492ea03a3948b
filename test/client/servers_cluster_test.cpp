// Keys on four servers: exclusion, several at once in one order, and a server that is down.
#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <postgres_lock/lease.hpp>

#include "handler.hpp"
#include "servers.hpp"

using namespace std::chrono_literals;
using pglock::cluster_guard;
using server::all_servers;
using server::count_locks;
using server::key_on;
using counts = std::vector<int>;

namespace
{
const counts none(4, 0);

class Servers : public testing::Test
{
  protected:
	void
	SetUp() override
	{
		ASSERT_EQ(all_servers().size(), 4u);
		ASSERT_EQ(count_locks(), none);
	}

	server::libpq_sessions mine;
	server::libpq_sessions others;
	failures heard;
};

/// Threads that take locks of several servers at a time, and what came of that.
class Crowd
{
  public:
	static constexpr std::size_t threads = 6;

	/// Each thread, so many times, takes three of six keys, in an order of its own.
	void
	run(int rounds)
	{
		std::vector<std::thread> all;

		for (unsigned thread = 0; thread < threads; thread++)
			all.emplace_back([=, this] {
				server::libpq_sessions own;
				std::mt19937 random(thread);
				std::array<std::size_t, 6> order{};

				std::iota(order.begin(), order.end(), 0);
				for (int round = 0; round < rounds; round++)
				{
					std::shuffle(order.begin(), order.end(), random);
					work(own.servers, {order[0], order[1], order[2]});
				}
			});
		for (std::thread &each : all)
			each.join();
	}

	std::atomic<int> done = 0;
	std::atomic<int> late = 0;
	std::atomic<int> clashes = 0;

  private:
	void
	work(const pglock::cluster &servers, const std::array<std::size_t, 3> &wanted)
	{
		std::vector<std::string> keys;

		for (std::size_t each : wanted)
			keys.push_back(key_on(each % 4, static_cast<int>(each / 4)));
		try
		{
			cluster_guard guard(servers, keys, {.timeout = 60s});

			for (std::size_t each : wanted)
				clashes += inside_[each].exchange(true);
			std::this_thread::yield();
			for (std::size_t each : wanted)
				inside_[each] = false;
			done++;
		}
		catch (const pglock::timeout_error &)
		{
			late++;
		}
	}

	std::array<std::atomic<bool>, 6> inside_{};
};

/// Two that each hold a lock on a server and then want that of the other.
int
cross(bool in_callers_order)
{
	std::atomic<int> late = 0;
	std::barrier met(2);
	auto cross_from = [&](std::size_t first, std::size_t second) {
		server::libpq_sessions own;

		try
		{
			if (in_callers_order)
			{
				cluster_guard one(own.servers, key_on(first));

				met.arrive_and_wait();
				cluster_guard two(own.servers, key_on(second), {.timeout = 1s});
			}
			else
			{
				met.arrive_and_wait();
				cluster_guard both(own.servers, {key_on(first), key_on(second)}, {.timeout = 60s});
			}
		}
		catch (const pglock::timeout_error &)
		{
			late++;
		}
	};
	std::thread other([&] { cross_from(3, 1); });

	cross_from(1, 3);
	other.join();
	return late;
}

/// A server that is stopped at once, and started again in the end.
class down
{
  public:
	explicit down(std::size_t number)
		: folder_(server::libpq_session(all_servers()[number].c_str()).query("SHOW data_directory"))
	{
		control("-m immediate stop");
	}

	~down()
	{
		if (!folder_.empty())
			end();
	}

	void
	end()
	{
		control("-l '" + folder_ + "/later.log' start");
		folder_.clear();
	}

  private:
	void
	control(const std::string &command) const
	{
		const char *program = std::getenv("PG_CTL");
		std::string whole = std::string(program != nullptr ? program : "pg_ctl") + " -s -w -D '" +
							folder_ + "' " + command;

		EXPECT_EQ(std::system(whole.c_str()), 0) << whole;
	}

	std::string folder_;
};
} // namespace

TEST_F(Servers, ExcludeEachOtherByKey)
{
	for (std::size_t server = 0; server < 4; server++)
		for (int number = 0; number < 3; number++)
		{
			std::string key = key_on(server, number);
			counts expected = none;

			expected[server] = 1;
			{
				cluster_guard guard(mine.servers, key);

				EXPECT_EQ(count_locks(), expected) << key;
				EXPECT_FALSE(pglock::try_guard(others.servers, key)) << key;
				EXPECT_EQ(others.sessions[server].query("SELECT pglock.server_of('" + key +
														"', 4)"),
						  std::to_string(server));
			}
			EXPECT_TRUE(pglock::try_guard(others.servers, key)) << key;
		}
	EXPECT_EQ(count_locks(), none);
}

TEST_F(Servers, HaveTheirShareOfKeys)
{
	std::vector<std::string> keys;

	for (int i = 0; i < 400; i++)
		keys.push_back("order:" + std::to_string(i));
	{
		cluster_guard guard(mine.servers, keys, {.timeout = 60s});
		counts held = count_locks();

		EXPECT_EQ(std::accumulate(held.begin(), held.end(), 0), 400);
		EXPECT_GT(*std::ranges::min_element(held), 75);
	}
	EXPECT_EQ(count_locks(), none);
}

TEST_F(Servers, AreOfOneMindOverLibraries)
{
	std::vector<std::unique_ptr<pqxx::connection>> connections;

	for (const std::string &each : all_servers())
		connections.push_back(std::make_unique<pqxx::connection>(each));

	pglock::cluster servers(std::move(connections));
	cluster_guard guard(servers, {key_on(0), key_on(3)});

	EXPECT_EQ(count_locks(), (counts{1, 0, 0, 1}));
	EXPECT_FALSE(pglock::try_guard(others.servers, key_on(3)));
	EXPECT_TRUE(pglock::try_guard(others.servers, key_on(2)));
}

TEST_F(Servers, HoldALockAtTransactionScope)
{
	std::vector<std::unique_ptr<pqxx::connection>> connections;
	std::vector<std::unique_ptr<pqxx::work>> transactions;

	for (const std::string &each : all_servers())
	{
		connections.push_back(std::make_unique<pqxx::connection>(each));
		transactions.push_back(std::make_unique<pqxx::work>(*connections.back()));
	}

	pqxx::work *work = transactions[1].get();
	pglock::cluster servers(std::move(transactions));
	cluster_guard guard(servers, key_on(1));

	EXPECT_FALSE(pglock::try_guard(others.servers, key_on(1)));
	work->commit();
	EXPECT_TRUE(pglock::try_guard(others.servers, key_on(1)));
}

TEST_F(Servers, GiveAllOrNone)
{
	{
		cluster_guard held(others.servers, key_on(2));

		EXPECT_FALSE(pglock::try_guard(mine.servers, {key_on(0), key_on(1), key_on(2), key_on(3)}));
		EXPECT_THROW(cluster_guard guard(mine.servers, {key_on(3), key_on(2), key_on(0, 1)},
										 {.timeout = 50ms}),
					 pglock::timeout_error);
		EXPECT_EQ(count_locks(), (counts{0, 0, 1, 0}));
	}
	cluster_guard guard(mine.servers, {key_on(0), key_on(1), key_on(2), key_on(3), key_on(3, 1)});

	EXPECT_TRUE(guard.locked());
	EXPECT_EQ(count_locks(), (counts{1, 1, 1, 2}));
	EXPECT_GT(guard.token(key_on(3)), 0);
	guard.unlock();
	EXPECT_EQ(count_locks(), none);
}

TEST_F(Servers, CountOneTimeoutForAll)
{
	cluster_guard last(others.servers, key_on(3));
	std::optional<cluster_guard> first;
	auto begun = std::chrono::steady_clock::now();
	std::thread waiter;

	first.emplace(others.servers, key_on(0));
	waiter = std::thread([&] {
		EXPECT_THROW(cluster_guard guard(mine.servers, {key_on(0), key_on(3)}, {.timeout = 3s}),
					 pglock::timeout_error);
	});
	EXPECT_TRUE(soon([] { return count_locks()[0] == 2; }));
	// most of the time is for the first
	std::this_thread::sleep_until(begun + 2500ms);
	first.reset();
	waiter.join();
	EXPECT_LT(std::chrono::steady_clock::now() - begun, 5s) << "2.5 s and another 3 s otherwise";
	EXPECT_EQ(count_locks(), (counts{0, 0, 0, 1}));
}

TEST_F(Servers, AreNotWaitedForAfterAStop)
{
	cluster_guard last(others.servers, key_on(3));
	std::stop_source stop;
	std::thread waiter([&] {
		EXPECT_THROW(cluster_guard guard(mine.servers, {key_on(0), key_on(2), key_on(3)},
										 {.stop = stop.get_token()}),
					 pglock::stopped_error);
	});

	EXPECT_TRUE(soon([] { return count_locks() == counts{1, 0, 1, 2}; }));
	stop.request_stop();
	waiter.join();
	EXPECT_EQ(count_locks(), (counts{0, 0, 0, 1}));
}

TEST_F(Servers, GiveNoneIfOneIsLostWhileAnotherIsWaitedFor)
{
	std::optional<cluster_guard> last(std::in_place, others.servers, key_on(3));
	std::string pid = server::pid_of(mine.sessions[0]);
	std::thread waiter([&] {
		try
		{
			cluster_guard guard(mine.servers, {key_on(0), key_on(2), key_on(3)});
			ADD_FAILURE() << "the first lock is lost";
		}
		catch (const pglock::server_lost &failure)
		{
			EXPECT_EQ(failure.server(), 0u);
		}
	});

	EXPECT_TRUE(soon([] { return count_locks() == counts{1, 0, 1, 2}; }));
	EXPECT_EQ(others.sessions[0].query("SELECT pg_terminate_backend(" + pid + ", 60000)"), "t");
	last.reset();
	waiter.join();
	EXPECT_EQ(count_locks(), none);
}

TEST_F(Servers, RequestStopWhenOneOfTheSessionsEnds)
{
	for (std::size_t ended : {0u, 2u})
	{
		server::libpq_sessions sessions;
		std::optional<cluster_guard> guard(std::in_place, sessions.servers,
										   std::vector<pglock::key>{key_on(0), key_on(2)});
		std::stop_token stop = guard->stop_token();
		std::atomic<bool> is_over = false;
		std::stop_callback end_guard(stop, [&] {
			guard.reset(); // and with it what requests stop
			is_over = true;
		});
		std::string pid = server::pid_of(sessions.sessions[ended]);

		EXPECT_EQ(guard->stop_token(), stop);
		EXPECT_FALSE(stop.stop_requested());
		EXPECT_EQ(others.sessions[ended].query("SELECT pg_terminate_backend(" + pid + ", 60000)"),
				  "t");
		EXPECT_TRUE(soon([&] { return is_over.load(); }));
	}
	EXPECT_TRUE(soon([] { return count_locks() == none; }));
}

TEST_F(Servers, RequestNoStopForSessionsThatHoldNothing)
{
	cluster_guard guard(mine.servers, key_on(1));
	std::stop_token stop = guard.stop_token();
	cluster_guard moved = std::move(guard);
	std::string pid = server::pid_of(mine.sessions[0]);

	EXPECT_EQ(others.sessions[0].query("SELECT pg_terminate_backend(" + pid + ", 60000)"), "t");
	EXPECT_THROW((void)guard.stop_token(), std::logic_error); // NOLINT: moved from
	moved.unlock();
	EXPECT_FALSE(stop.stop_requested());
}

TEST_F(Servers, DoNotDeadlockInTheirOrder)
{
	for (int round = 0; round < 20; round++)
		EXPECT_EQ(cross(false), 0);
	// the control
	EXPECT_GE(cross(true), 1) << "no server sees that they wait for each other";
	EXPECT_EQ(count_locks(), none);
}

TEST_F(Servers, ExcludeACrowd)
{
	Crowd crowd;

	crowd.run(30);
	EXPECT_EQ(crowd.done, 180);
	EXPECT_EQ(crowd.late, 0);
	EXPECT_EQ(crowd.clashes, 0);
	EXPECT_EQ(count_locks(), none);
}

TEST_F(Servers, HaveSlotsAndLeasesByKey)
{
	for (std::size_t server = 0; server < 4; server++)
	{
		std::string key = key_on(server);
		pglock::slot_guard slot(mine.servers.connection_for(key), key, 1);
		pglock::lease_guard lease(mine.servers.connection_for(key), key);
		const pglock::connection_ref &other = others.servers.connection_for(key);

		EXPECT_THROW(pglock::slot_guard guard(other, key, 1, {.timeout = 0s}),
					 pglock::timeout_error);
		EXPECT_THROW(pglock::lease_guard guard(other, key, {.timeout = 0s}), pglock::timeout_error);
		EXPECT_EQ(others.sessions[server].query("SELECT key FROM pglock.leases"), key);
	}
}

TEST_F(Servers, GoOnWithoutOneThatIsDown)
{
	std::string place = "server 2 (" + mine.sessions[2].ref().host() + ")";
	auto expect_down = [&](auto work) {
		try
		{
			work();
			ADD_FAILURE() << "server 2 is down";
		}
		catch (const pglock::server_lost &failure)
		{
			EXPECT_EQ(failure.server(), 2u);
			EXPECT_TRUE(std::string(failure.what()).starts_with(place)) << failure.what();
		}
	};
	cluster_guard all(others.servers, {key_on(0), key_on(1), key_on(2), key_on(3)});
	down stopped(2);

	EXPECT_TRUE(soon([&] { return all.lost(); }));
	EXPECT_FALSE(all.locked());
	expect_down([&] { all.unlock(); });
	EXPECT_EQ(count_locks(), none) << "the others gave theirs back";

	expect_down([&] { cluster_guard guard(mine.servers, key_on(2), {.timeout = 10s}); });
	expect_down([&] { cluster_guard guard(mine.servers, {key_on(0), key_on(1), key_on(2)}); });
	expect_down([&] { pglock::slot_guard guard(mine.servers.connection_for(key_on(2)), "s", 1); });
	expect_down([&] {
		PQreset(mine.sessions[2].get());
		(void)pglock::try_guard(mine.servers, {key_on(3), key_on(2)});
	});
	EXPECT_EQ(count_locks(), none);
	EXPECT_TRUE(cluster_guard(mine.servers, {key_on(0), key_on(1), key_on(3)}).locked());

	stopped.end();
	PQreset(mine.sessions[2].get());
	EXPECT_TRUE(cluster_guard(mine.servers, {key_on(1), key_on(2)}).locked());
	others.servers.replace(2, mine.sessions[2].ref());
	EXPECT_TRUE(cluster_guard(others.servers, {key_on(1), key_on(2)}).locked());
	EXPECT_EQ(count_locks(), none);
}
