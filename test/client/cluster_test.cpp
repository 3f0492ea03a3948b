// Keys on many servers: which server has one, and how locks of several are taken together.
#include <algorithm>
#include <array>
#include <chrono>
#include <fstream>
#include <memory>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <postgres_lock/cluster.hpp>
#include <postgres_lock/lease.hpp>

#include "fake.hpp"
#include "handler.hpp"
#include "recorder.hpp"

using namespace std::chrono_literals;
using pglock::cluster_guard;
using texts = std::vector<std::string>;

static_assert(!std::is_copy_constructible_v<cluster_guard> &&
			  std::is_nothrow_move_constructible_v<cluster_guard> &&
			  std::is_nothrow_move_assignable_v<cluster_guard>);
static_assert(!std::is_convertible_v<fake::connection *, pglock::cluster>);
static_assert(!std::is_constructible_v<pglock::cluster, std::vector<std::string>>);
// they would have to be moved
static_assert(
	!std::is_constructible_v<pglock::cluster, std::vector<std::unique_ptr<fake::connection>> &>);

namespace
{
/// Notes what all connections are asked, in one order, each by its number in an array.
struct noting : pglock::connection_traits<fake::connection>
{
	static inline const fake::connection *first;
	static inline texts log;

	static pglock::reply
	execute(fake::connection &to, const char *text, pglock::parameters values)
	{
		std::string values_text;

		for (const char *value : values)
			values_text.append("|").append(value != nullptr ? value : "NULL");
		note(to, std::string_view(text).substr(0, std::string_view(text).find('(')), values_text);
		return to.run(text, values);
	}

	static void
	rollback(fake::connection &of)
	{
		note(of, "ROLLBACK", {});
		of.status = pglock::transaction_status::idle;
	}

	static std::string
	host(fake::connection &of)
	{
		return "db" + number(of) + ".example.com:5432";
	}

  private:
	static std::string
	number(const fake::connection &of)
	{
		return std::to_string(&of - first);
	}

	static void
	note(const fake::connection &of, std::string_view text, const std::string &values)
	{
		log.push_back(number(of) + ' ' + std::string(text) + values);
	}
};

/// Four servers, of which 0 has "leader" and "5", 1 "nightly report", 2 "order:42", and 3 "16055".
class Cluster : public testing::Test
{
  protected:
	Cluster()
	{
		noting::first = connections.data();
		noting::log.clear();
	}

	/// What all have been asked since the last call.
	static texts
	asked()
	{
		return std::exchange(noting::log, {});
	}

	static std::set<std::string>
	asked_in_any_order()
	{
		auto all = asked();

		return {all.begin(), all.end()};
	}

	[[nodiscard]] pglock::connection_ref
	to(std::size_t server)
	{
		return pglock::through<noting>(connections[server]);
	}

	failures heard;
	std::array<fake::connection, 4> connections;
	pglock::cluster servers{to(0), to(1), to(2), to(3)};
};
} // namespace

TEST(ServerOf, IsTheSameInAllLanguages)
{
	std::ifstream file(SERVER_OF);
	std::string line;
	int count = -1;

	for (; std::getline(file, line); count++)
	{
		if (count < 0)
			continue;

		std::istringstream columns(line);
		std::string key;
		std::int64_t id;
		std::size_t number;
		std::size_t server;

		std::getline(columns, key, '\t');
		columns >> id >> number >> server;
		ASSERT_FALSE(columns.fail()) << line;
		EXPECT_EQ(pglock::detail::lock_id(key), id) << key;
		EXPECT_EQ(pglock::server_of(key, number), server) << key << " of " << number;
	}
	EXPECT_EQ(count, 57);
}

TEST(ServerOf, TakesWhatKeysAreMadeOf)
{
	EXPECT_EQ(pglock::server_of(5, 16), pglock::server_of("5", 16));
	EXPECT_EQ(pglock::server_of(INT64_MIN, 16), 13u);
	EXPECT_EQ(pglock::server_of("a", 1), 0u);
	EXPECT_THROW((void)pglock::server_of("a", 0), std::invalid_argument);
}

TEST(ServerOf, GivesEachServerItsShare)
{
	std::array<int, 5> keys{};

	for (int i = 0; i < 10000; i++)
		keys[pglock::server_of("order:" + std::to_string(i), keys.size())]++;
	EXPECT_GT(*std::ranges::min_element(keys), 1900);
}

TEST_F(Cluster, PicksTheConnectionByTheKey)
{
	EXPECT_EQ(servers.size(), 4u);
	EXPECT_EQ(servers.server_of("order:42"), 2u);
	for (auto key : {"leader", "nightly report", "order:42", "16055"})
		(void)servers.connection_for(key).execute(key);
	EXPECT_EQ(asked(), (texts{"0 leader", "1 nightly report", "2 order:42", "3 16055"}));
	(void)servers.connection_to(1).execute("by its number");
	EXPECT_EQ(asked(), texts{"1 by its number"});
	EXPECT_THROW((void)servers.connection_to(4), std::out_of_range);
}

TEST_F(Cluster, IsMadeOfAnyConnections)
{
	std::vector<fake::connection *> pointers{&connections[0], &connections[1]};
	std::vector<pglock::connection_ref> references{to(0), to(1), to(2)};
	std::vector<std::shared_ptr<fake::connection>> shared{std::make_shared<fake::connection>()};
	std::vector<std::unique_ptr<fake::connection>> owned;
	fake::connection preparing;

	owned.push_back(std::make_unique<fake::connection>());
	owned.push_back(nullptr);
	EXPECT_EQ(pglock::cluster(pointers).size(), 2u);
	EXPECT_EQ(pglock::cluster(references).size(), 3u);
	EXPECT_EQ(pglock::cluster(connections).size(), 4u) << "of an array of connections themselves";
	EXPECT_EQ((pglock::cluster{&connections[0], preparing}.size()), 2u);
	{
		pglock::cluster kept(shared);

		EXPECT_EQ(shared[0].use_count(), 2);
	}
	EXPECT_EQ(shared[0].use_count(), 1);

	pglock::cluster owner(std::move(owned));

	EXPECT_EQ(owned[0], nullptr);
	EXPECT_TRUE(cluster_guard(owner, "leader").locked());
	EXPECT_THROW(pglock::cluster(std::vector<fake::connection *>()), std::invalid_argument);
}

TEST_F(Cluster, NamesAServerThatIsNotConnected)
{
	pglock::cluster partly(std::vector<fake::connection *>{&connections[0], nullptr});

	EXPECT_TRUE(cluster_guard(partly, "leader").locked());
	try
	{
		cluster_guard guard(partly, {"leader", "nightly report"});
		ADD_FAILURE() << "there is no connection";
	}
	catch (const pglock::server_lost &failure)
	{
		EXPECT_EQ(failure.server(), 1u);
		EXPECT_STREQ(failure.what(), "server 1: there is no connection");
	}
	EXPECT_EQ(connections[0].log.back(), "SELECT pglock.release($1::text, false)|leader")
		<< "nothing is held elsewhere";
	partly.replace(1, &connections[1]);
	EXPECT_TRUE(cluster_guard(partly, {"leader", "nightly report"}).locked());
}

TEST_F(Cluster, NamesAServerThatIsLost)
{
	auto expect_named = [](auto work) {
		try
		{
			work();
			ADD_FAILURE() << "the connection is lost";
		}
		catch (const pglock::server_lost &failure)
		{
			EXPECT_EQ(failure.server(), 2u);
			EXPECT_STREQ(failure.what(), "server 2 (db2.example.com:5432): broken");
			EXPECT_EQ(failure.sqlstate(), "08006");
		}
	};
	auto breaks = [this] { connections[2].fail("08006", "broken"); };
	const pglock::connection_ref &connection = servers.connection_for("order:42");

	breaks();
	expect_named([&] { cluster_guard guard(servers, "order:42"); });
	breaks();
	expect_named([&] { pglock::slot_guard guard(connection, "order:42", 3); });
	breaks();
	expect_named([&] { pglock::lease_guard guard(connection, "order:42"); });
	expect_named([&] {
		cluster_guard guard(servers, "order:42");

		breaks();
		guard.unlock();
	});
	EXPECT_TRUE(cluster_guard(servers, {"leader", "16055"}).locked()) << "others go on";

	// other errors are passed on as they are
	connections[2].fail("42501", "no");
	try
	{
		cluster_guard guard(servers, "order:42");
		ADD_FAILURE() << "it is refused";
	}
	catch (const pglock::error &failure)
	{
		EXPECT_STREQ(failure.what(), "no");
	}
	// and so is the loss of a connection that is of no cluster
	breaks();
	try
	{
		pglock::guard guard(connections[2], "order:42");
		ADD_FAILURE() << "the connection is lost";
	}
	catch (const pglock::connection_lost &failure)
	{
		EXPECT_EQ(dynamic_cast<const pglock::server_lost *>(&failure), nullptr);
		EXPECT_STREQ(failure.what(), "broken");
	}
}

TEST_F(Cluster, TellsTheHandlerWhichServerFailed)
{
	{
		cluster_guard guard(servers, "order:42");

		connections[2].fail("08006", "broken");
	}
	EXPECT_EQ(heard.all(), texts{"order:42: server 2 (db2.example.com:5432): broken"});
}

TEST_F(Cluster, AsksTheServersInTheirOrder)
{
	{
		cluster_guard guard(servers, {"16055", "order:42", "leader", 5, "16055"});

		EXPECT_TRUE(guard.locked());
		EXPECT_EQ(asked(), (texts{"0 SELECT pglock.acquire_all|{\"5\",\"leader\"}|NULL|f|session",
								  "2 CALL pglock.lock|order:42", "3 CALL pglock.lock|16055"}));
	}
	EXPECT_EQ(asked_in_any_order(),
			  (std::set<std::string>{"0 SELECT pg_catalog.bool_and|{\"5\",\"leader\"}|f",
									 "2 SELECT pglock.release|order:42",
									 "3 SELECT pglock.release|16055"}));
}

TEST_F(Cluster, HasOneTimeoutForAll)
{
	auto slowly = []() -> pglock::reply {
		std::this_thread::sleep_for(50ms);
		return "t";
	};

	connections[0].answer(slowly);
	{
		cluster_guard guard(servers, {"leader", "order:42"}, {.timeout = 10s});
	}

	std::string text = asked().at(1);
	std::string start = "2 CALL pglock.lock|order:42|";

	ASSERT_TRUE(text.starts_with(start)) << text;
	EXPECT_LE(std::stol(text.substr(start.size())), 9950) << text;

	// when it has passed, the others are asked, too, and do not wait
	connections[0].answer(slowly);
	EXPECT_TRUE(pglock::try_guard(servers, {"leader", "order:42"}, {.timeout = 20ms}));
	EXPECT_EQ(asked().at(1), "2 SELECT pglock.try|order:42|f|session");
}

TEST_F(Cluster, HoldsNothingIfALaterServerRefuses)
{
	connections[2].answer("f");
	EXPECT_FALSE(pglock::try_guard(servers, {"leader", "order:42", "16055"}));
	EXPECT_EQ(asked(),
			  (texts{"0 SELECT pglock.try|leader|f|session",
					 "2 SELECT pglock.try|order:42|f|session", "0 SELECT pglock.release|leader"}));

	connections[2].fail("55P03", "could not acquire lock \"order:42\" in time");
	EXPECT_THROW(cluster_guard guard(servers, {"leader", "order:42", "16055"}, {.timeout = 5s}),
				 pglock::timeout_error);
	EXPECT_EQ(asked().back(), "0 SELECT pglock.release|leader");

	connections[2].fail("42501");
	EXPECT_THROW(cluster_guard guard(servers, {"leader", "nightly report", "order:42"}),
				 pglock::error);
	EXPECT_EQ(
		asked_in_any_order(),
		(std::set<std::string>{"0 CALL pglock.lock|leader", "1 CALL pglock.lock|nightly report",
							   "2 CALL pglock.lock|order:42", "0 SELECT pglock.release|leader",
							   "1 SELECT pglock.release|nightly report"}));
	EXPECT_EQ(heard.all(), texts{});
}

TEST_F(Cluster, HoldsNothingIfOneIsLostWhileAnotherIsWaitedFor)
{
	connections[2].answer([this]() -> pglock::reply {
		connections[0].lost = true;
		return "t";
	});
	try
	{
		cluster_guard guard(servers, {"leader", "order:42"});
		ADD_FAILURE() << "the first lock is lost";
	}
	catch (const pglock::server_lost &failure)
	{
		EXPECT_EQ(failure.server(), 0u);
		EXPECT_TRUE(std::string(failure.what()).starts_with("server 0 (db0.example.com:5432): "))
			<< failure.what();
	}
	EXPECT_EQ(std::ranges::count(asked(), "2 SELECT pglock.release|order:42"), 1);
}

TEST_F(Cluster, LeavesTransactionsOpenIfALaterServerRefuses)
{
	connections[0].status = pglock::transaction_status::open;
	connections[2].fail("40P01");
	EXPECT_THROW(cluster_guard guard(servers, {"leader", "order:42"}), pglock::deadlock_error);
	EXPECT_EQ(asked(), (texts{"0 SELECT pglock.acquire|leader|NULL|f|session",
							  "2 CALL pglock.lock|order:42", "0 SELECT pglock.release|leader"}));
}

TEST_F(Cluster, RollsBackOnEachServerIfTheWorkFails)
{
	try
	{
		cluster_guard guard(servers, {"leader", "order:42"});

		asked();
		connections[0].status = pglock::transaction_status::open;
		throw std::runtime_error("work has failed");
	}
	catch (const std::runtime_error &)
	{
	}

	auto all = asked();

	EXPECT_EQ(std::set<std::string>(all.begin(), all.end()),
			  (std::set<std::string>{"0 ROLLBACK", "0 SELECT pglock.release|leader",
									 "2 SELECT pglock.release|order:42"}));
	EXPECT_LT(std::ranges::find(all, "0 ROLLBACK"),
			  std::ranges::find(all, "0 SELECT pglock.release|leader"));
}

TEST_F(Cluster, RefusesWhatItCouldNotGiveBack)
{
	pglock::options in_transaction{.scope = pglock::scope::transaction};

	for (auto &each : connections)
		each.status = pglock::transaction_status::open;
	EXPECT_THROW(cluster_guard guard(servers, {"leader", "order:42"}, in_transaction),
				 std::invalid_argument);
	EXPECT_THROW(cluster_guard guard(servers, {"leader", "5"}, in_transaction),
				 std::invalid_argument)
		<< "though both are on one server: it does not depend on the names";
	EXPECT_THROW(cluster_guard guard(servers, std::vector<pglock::key>()), std::invalid_argument);
	EXPECT_EQ(asked(), texts{});
	EXPECT_TRUE(cluster_guard(servers, {"leader", "leader"}, in_transaction).locked());
	EXPECT_TRUE(cluster_guard(pglock::cluster{to(0)}, {"a", "b"}, in_transaction).locked());
}

TEST_F(Cluster, GivesAllBackThoughOneFails)
{
	cluster_guard guard(servers, {"leader", "nightly report", "order:42"});

	asked();
	connections[0].fail("57014", "first");
	connections[1].fail("57014", "second");
	try
	{
		guard.unlock();
		ADD_FAILURE() << "two releases fail";
	}
	catch (const pglock::error &failure)
	{
		EXPECT_STREQ(failure.what(), "first");
	}
	EXPECT_FALSE(guard.locked()) << "that of server 2 is not held";
	EXPECT_EQ(asked(),
			  (texts{"0 SELECT pglock.release|leader", "1 SELECT pglock.release|nightly report",
					 "2 SELECT pglock.release|order:42"}));
	guard.unlock();
	EXPECT_EQ(asked(),
			  (texts{"0 SELECT pglock.release|leader", "1 SELECT pglock.release|nightly report"}))
		<< "again where it failed";
}

TEST_F(Cluster, DrawsTokensFromTheServerOfTheKey)
{
	cluster_guard guard(servers, {"leader", "order:42"});

	asked();
	connections[2].answer("123");
	EXPECT_EQ(guard.token("order:42"), 123);
	EXPECT_EQ(asked(), texts{"2 SELECT pglock.token|order:42"});
	EXPECT_THROW((void)guard.token("16055"), std::invalid_argument);
	EXPECT_EQ(asked(), texts{});
}

TEST_F(Cluster, KnowsWhatIsLost)
{
	cluster_guard guard(servers, {"leader", "order:42"});

	EXPECT_FALSE(guard.lost());
	connections[2].lost = true;
	EXPECT_TRUE(guard.lost());
	EXPECT_FALSE(guard.locked());
}

TEST_F(Cluster, MovesItsLocks)
{
	cluster_guard first(servers, {"leader", "order:42"});
	cluster_guard second = std::move(first);

	asked();
	first.unlock();
	EXPECT_FALSE(first.locked());
	EXPECT_EQ(asked(), texts{});
	EXPECT_TRUE(second.locked());
	second = cluster_guard(servers, "16055");
	EXPECT_EQ(asked().front(), "3 CALL pglock.lock|16055");
	EXPECT_TRUE(second.locked());
}

TEST_F(Cluster, KeepsItsLocksIfItIsAssignedToItself)
{
	cluster_guard guard(servers, {"leader", "order:42"});
	cluster_guard &same = guard;

	asked();
	guard = std::move(same);
	EXPECT_TRUE(guard.locked());
	EXPECT_EQ(asked(), texts{});
}

TEST_F(Cluster, TellsAnObserverOfEachServer)
{
	recorder notes;
	pglock::options observed{.observer = &notes};

	connections[2].answer("f");
	EXPECT_FALSE(pglock::try_guard(servers, {"leader", "5", "order:42"}, observed));
	EXPECT_EQ(notes.told(), (texts{"waiting 5 leader", "acquired 5 leader", "waiting order:42",
								   "refused order:42", "released 5 leader"}));
}

TEST_F(Cluster, ExcludesObjectsOnOneConnection)
{
	pglock::guard guard(servers.connection_for("order:42"), "order:42");

	asked();
	EXPECT_THROW(cluster_guard guard(servers, {"leader", "order:42"}), std::system_error);
	EXPECT_EQ(asked(), (texts{"0 CALL pglock.lock|leader", "0 SELECT pglock.release|leader"}));
}
