// What an observer is told of locks, in which order, and since when.
#include <chrono>
#include <string>
#include <system_error>
#include <vector>

#include <gtest/gtest.h>
#include <postgres_lock/lock.hpp>

#include "fake.hpp"
#include "handler.hpp"
#include "recorder.hpp"

using namespace std::chrono_literals;
using texts = std::vector<std::string>;

namespace
{
class Observer : public testing::Test
{
  protected:
	/// Options with it.
	pglock::options
	observed(pglock::options options = {})
	{
		options.observer = &notes;
		return options;
	}

	recorder notes;
	fake::connection connection;
	failures heard;
};
} // namespace

TEST_F(Observer, HearsOfAHoldFromItsWaitToItsEnd)
{
	auto begin = std::chrono::steady_clock::now();
	pglock::lock_event::clock::time_point asked;

	connection.answer([&]() -> pglock::reply {
		EXPECT_EQ(notes.told(), texts{"waiting a b"}) << "before the server is asked";
		asked = notes.since;
		EXPECT_GE(asked, begin);
		return "t";
	});
	{
		pglock::guard guard(connection, {"b", "a"}, observed());

		EXPECT_EQ(notes.told(), texts{"acquired a b"});
		EXPECT_EQ(notes.since, asked) << "how long it has waited";
		EXPECT_GE(notes.elapsed, 0s);
	}
	EXPECT_EQ(notes.told(), texts{"released a b"});
	EXPECT_GE(notes.since, asked) << "how long it was held";
}

TEST_F(Observer, HearsOfWaitsInVain)
{
	pglock::lock lock(connection, "a", observed());

	connection.fail("55P03", "could not acquire lock \"a\" in time");
	EXPECT_FALSE(lock.acquire(1ms));
	EXPECT_EQ(notes.told(), (texts{"waiting a", "refused a"}));
	connection.answer("f");
	EXPECT_FALSE(lock.try_acquire());
	EXPECT_EQ(notes.told(), (texts{"waiting a", "refused a"}));
	connection.fail("40P01");
	EXPECT_THROW((void)lock.acquire(), pglock::deadlock_error);
	EXPECT_EQ(notes.told(), (texts{"waiting a", "refused a"}));

	pglock::guard other(connection, "a");

	EXPECT_THROW((void)lock.acquire(), std::system_error);
	EXPECT_EQ(notes.told(), texts()) << "the server is not asked";
}

TEST_F(Observer, HearsOfEachLevel)
{
	pglock::lock lock(connection, "a", observed({.shared = true}));

	EXPECT_TRUE(lock.acquire());
	EXPECT_TRUE(lock.acquire());
	EXPECT_EQ(notes.told(), (texts{"waiting a shared", "acquired a shared", "waiting a shared",
								   "acquired a shared"}));
	lock.release();
	lock.release();
	EXPECT_FALSE(lock.release());
	EXPECT_EQ(notes.told(), (texts{"released a shared", "released a shared"}));
}

TEST_F(Observer, HearsWhichSlotItIs)
{
	connection.answer("3");
	{
		pglock::slot_guard guard(connection, "a", 5, observed());
	}
	EXPECT_EQ(notes.told(), (texts{"waiting a", "acquired a slot 3", "released a slot 3"}));
}

TEST_F(Observer, AtTransactionScopeDoesNotHearOfTheEnd)
{
	connection.status = pglock::transaction_status::open;
	{
		pglock::guard guard(connection, "a", observed({.scope = pglock::scope::transaction}));
	}
	EXPECT_EQ(notes.told(), (texts{"waiting a in transaction", "acquired a in transaction"}));
}

TEST_F(Observer, HearsOfALossOnce)
{
	pglock::lock lock(connection, "a", observed({.shared = true}));
	auto take = [&] {
		EXPECT_TRUE(lock.acquire());
		EXPECT_TRUE(lock.acquire());
		notes.told();
	};

	take();
	connection.answer("f");
	EXPECT_THROW(lock.release(), pglock::not_held_error);
	EXPECT_EQ(notes.told(), texts{"lost a shared"}) << "released behind its back";
	take();
	connection.fail("08006");
	EXPECT_THROW(lock.release(), pglock::connection_lost);
	EXPECT_EQ(notes.told(), texts{"lost a shared"});
	take();
	connection.memory.renew();
	EXPECT_THROW(lock.release(), pglock::connection_lost);
	EXPECT_FALSE(lock.release());
	EXPECT_EQ(notes.told(), texts{"lost a shared"});
}

TEST_F(Observer, HearsOfReleasesThatFail)
{
	{
		pglock::guard guard(connection, "a", observed());

		notes.told();
		connection.fail("57014");
	}
	EXPECT_EQ(notes.told(), texts{"release_failed a: as told"});
	EXPECT_EQ(heard.all(), texts{"a: as told"}) << "so does the handler";
	connection.asked();
	{
		pglock::guard guard(connection, "b", observed());

		notes.told();
		connection.fail("08006");
	}
	EXPECT_EQ(notes.told(), (texts{"lost b", "release_failed b: as told"}));
}

TEST_F(Observer, HearsOfMutexes)
{
	pglock::shared_mutex mutex(connection, "a", observed());

	mutex.lock();
	mutex.unlock();
	EXPECT_EQ(notes.told(), (texts{"waiting a", "acquired a", "released a"}));
	mutex.lock_shared();
	mutex.unlock_shared();
	EXPECT_EQ(notes.told(), (texts{"waiting a shared", "acquired a shared", "released a shared"}));
}
