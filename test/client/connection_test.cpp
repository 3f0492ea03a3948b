// How the interface to a connection is found, and named.
#include <array>
#include <memory>
#include <string>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <postgres_lock/detail/hang_up.hpp>
#include <postgres_lock/lock.hpp>

#include "fake.hpp"

namespace
{
/// Nobody has told the library of it.
struct stranger : fake::connection
{
};

/// Two objects of one session.
struct part
{
	fake::connection *session;
};

struct part_traits
{
	static pglock::reply
	execute(part &to, const char *text, pglock::parameters values)
	{
		return to.session->run(text, values);
	}

	static pglock::transaction_status
	status(part &) noexcept
	{
		return pglock::transaction_status::open;
	}

	static void
	rollback(part &of)
	{
		(void)of.session->run("a rollback of its own");
	}

	static const void *
	session(part &of) noexcept
	{
		return of.session;
	}

	static pglock::scope
	default_scope(part &) noexcept
	{
		return pglock::scope::transaction;
	}
};
} // namespace

static_assert(std::is_convertible_v<fake::connection &, pglock::connection_ref>);
static_assert(std::is_convertible_v<fake::connection *, pglock::connection_ref>);
static_assert(std::is_convertible_v<std::shared_ptr<fake::connection>, pglock::connection_ref>);
static_assert(std::is_convertible_v<std::unique_ptr<fake::connection>, pglock::connection_ref>);
static_assert(!std::is_convertible_v<std::shared_ptr<int>, pglock::connection_ref>);
static_assert(!std::is_convertible_v<std::unique_ptr<stranger>, pglock::connection_ref>);
static_assert(!std::is_convertible_v<int &, pglock::connection_ref>);
static_assert(!std::is_convertible_v<stranger &, pglock::connection_ref>);
static_assert(!std::is_convertible_v<const fake::connection &, pglock::connection_ref>);

TEST(Connection, IsFoundByItsType)
{
	auto connection = std::make_unique<fake::connection>();

	{
		pglock::guard by_reference(*connection, "a");
		pglock::guard by_pointer(connection.get(), "b");
	}
	EXPECT_EQ(connection->asked().size(), 4u);
	connection.reset();
	EXPECT_THROW(pglock::connection_ref(connection.get()), std::invalid_argument);
}

namespace
{
/// What a connection had been asked when it was closed.
struct closing
{
	std::vector<std::string> &noted;

	void
	operator()(fake::connection *connection) const
	{
		noted = connection->asked();
		noted.push_back("closed");
		delete connection;
	}
};
} // namespace

TEST(Connection, ThatIsHandedOverIsKeptUntilTheRelease)
{
	std::vector<std::string> noted;
	const std::vector<std::string> expected{"CALL pglock.lock($1::text)|a",
											"SELECT pglock.release($1::text, false)|a", "closed"};
	auto hand_over = [&] {
		noted.clear();
		return std::unique_ptr<fake::connection, closing>(new fake::connection, {noted});
	};
	{
		pglock::guard guard(hand_over(), "a");

		guard.unlock();
		EXPECT_TRUE(noted.empty()) << "the guard has it still";
	}
	EXPECT_EQ(noted, expected);
	{
		pglock::guard outer(hand_over(), "a");
		pglock::guard inner = std::move(outer);
	}
	EXPECT_EQ(noted, expected);
	{
		pglock::lock lock(hand_over(), "a");

		EXPECT_TRUE(lock.acquire());
	}
	EXPECT_EQ(noted, expected);
	{
		pglock::shared_mutex mutex(hand_over(), "a");

		mutex.lock();
		mutex.unlock();
		EXPECT_TRUE(noted.empty());
	}
	EXPECT_EQ(noted, expected);
	{
		pglock::slot_guard guard(hand_over(), "a", 2);
	}
	EXPECT_EQ(noted.size(), 3u);
	EXPECT_THROW(pglock::guard(hand_over(), std::vector<pglock::key>()).unlock(),
				 std::invalid_argument);
	EXPECT_EQ(noted, std::vector<std::string>{"closed"}) << "also if there is no lock";
}

TEST(Connection, ThatIsSharedIsKeptByEach)
{
	std::vector<std::string> noted;
	std::shared_ptr<fake::connection> shared(new fake::connection, closing{noted});
	std::weak_ptr<fake::connection> watched = shared;
	auto first = std::make_unique<pglock::guard>(shared, "a");
	auto second = std::make_unique<pglock::guard>(std::move(shared), "b");

	EXPECT_THROW(pglock::guard(watched.lock(), "a").unlock(), std::system_error);
	first.reset();
	EXPECT_FALSE(watched.expired());
	second.reset();
	EXPECT_TRUE(watched.expired());
	EXPECT_EQ(noted.size(), 5u);
	EXPECT_THROW(pglock::connection_ref{shared}, std::invalid_argument);
	EXPECT_THROW(pglock::connection_ref{std::unique_ptr<fake::connection>()},
				 std::invalid_argument);
}

TEST(Connection, IsNamed)
{
	stranger connection;

	{
		pglock::guard guard(pglock::through<fake::plain_traits>(connection), "a");

		EXPECT_TRUE(guard.locked());
		EXPECT_FALSE(guard.lost()) << "it does not say";
		connection.asked();
	}
	EXPECT_EQ(connection.asked().size(), 1u);
}

TEST(Connection, SeveralObjectsMayHaveOneSession)
{
	fake::connection session;
	part one{&session};
	part two{&session};
	pglock::lock here(pglock::through<part_traits>(one), "a");
	pglock::lock there(pglock::through<part_traits>(two), "a");

	EXPECT_TRUE(here.acquire());
	EXPECT_THROW((void)there.acquire(), std::system_error);
}

TEST(Connection, HasItsOwnScopeAndRollback)
{
	fake::connection session;
	part one{&session};
	pglock::lock lock(pglock::through<part_traits>(one), "a");

	EXPECT_TRUE(lock.acquire());
	lock.handle_error();

	auto asked = session.asked();

	ASSERT_EQ(asked.size(), 2u);
	EXPECT_NE(asked[0].find("|transaction"), std::string::npos);
	EXPECT_EQ(asked[1], "a rollback of its own");
}

TEST(Connection, LocksMayOutliveItsMemory)
{
	auto connection = std::make_unique<fake::connection>();
	pglock::lock lock(*connection, "a");

	EXPECT_TRUE(lock.acquire());
	connection.reset();
	EXPECT_TRUE(lock.lost());
	EXPECT_FALSE(lock.locked());
	EXPECT_THROW(lock.release(), pglock::connection_lost);
	EXPECT_FALSE(lock.release());
}

TEST(Connection, TheTableOfSessionsForgetsThoseThatNobodyUses)
{
	pglock::detail::session_table table;
	std::vector<char> addresses(1000);
	auto used = table.find(&addresses[0]);

	used->troubles = 7;
	for (const char &address : addresses)
		(void)table.find(&address);
	EXPECT_EQ(table.find(&addresses[0]), used);
	(void)table.find(&addresses[999]);
	EXPECT_EQ(table.find(&addresses[1]).use_count(), 2);
	EXPECT_LT(table.size(), 500u);
}

TEST(Connection, IsHungUpUnderItsOwnerAndNobodyElse)
{
	std::array<int, 2> connection{};
	std::array<int, 2> strangers{};
	char received = 0;

	ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, connection.data()), 0);

	auto hang_up = pglock::detail::hang_up_of(connection[0]);

	close(connection[0]);
	ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, strangers.data()), 0);
	ASSERT_EQ(strangers[0], connection[0]) << "a file gets the lowest number";
	hang_up();
	EXPECT_EQ(recv(connection[1], &received, 1, 0), 0) << "it is closed";
	EXPECT_EQ(send(strangers[0], "x", 1, MSG_NOSIGNAL), 1);
	for (int each : {connection[1], strangers[0], strangers[1]})
		close(each);
}
