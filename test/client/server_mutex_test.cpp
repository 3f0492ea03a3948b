// The standard library's guards over the mutexes, between sessions.
#include <mutex>
#include <shared_mutex>
#include <thread>

#include "handler.hpp"
#include "server.hpp"

using namespace std::chrono_literals;

namespace
{
template <typename Way> class Mutexes : public server::Behaviour<Way>
{
  protected:
	failures heard;
};

TYPED_TEST_SUITE(Mutexes, server::ways_to_release, server::way_names);
} // namespace

TYPED_TEST(Mutexes, LockGuardAndUniqueLockExclude)
{
	typename TestFixture::place here;
	typename TestFixture::place there;
	pglock::mutex one(here.ref(), "door");
	pglock::mutex two(there.ref(), "door");
	{
		std::lock_guard guard(one);
		std::unique_lock at_once(two, std::try_to_lock);
		std::unique_lock for_a_while(two, 5ms);
		std::unique_lock until(two, std::chrono::system_clock::now() + 5ms);

		EXPECT_FALSE(at_once || for_a_while || until);
	}
	std::unique_lock guard(two, 5ms);

	EXPECT_TRUE(guard);
	EXPECT_FALSE(server::is_free("door"));
	guard.unlock();
	EXPECT_TRUE(server::is_free("door"));
	EXPECT_TRUE(this->heard.all().empty());
}

TYPED_TEST(Mutexes, AWaitEndsWhenTheOtherUnlocks)
{
	typename TestFixture::place here;
	typename TestFixture::place there;
	pglock::mutex one(here.ref(), "door");
	pglock::mutex two(there.ref(), "door");

	one.lock();
	std::thread thread([&] { EXPECT_TRUE(two.try_lock_for(1min)); });

	server::wait_for_waiters();
	one.unlock();
	thread.join();
	EXPECT_FALSE(one.try_lock());
	two.unlock();
}

TYPED_TEST(Mutexes, ScopedLockTakesTwoInAnyOrder)
{
	int both = 0;
	auto work = [&](const char *first, const char *second) {
		typename TestFixture::place place;
		pglock::mutex a(place.ref(), first);
		pglock::mutex b(place.ref(), second);

		for (int i = 0; i < 50; i++)
		{
			std::scoped_lock guard(a, b);

			both++; // a race if they did not exclude each other
		}
	};
	std::thread thread(work, "left", "right");

	work("right", "left");
	thread.join();
	EXPECT_EQ(both, 100);
	EXPECT_TRUE(server::is_free("left") && server::is_free("right"));
}

TYPED_TEST(Mutexes, SharedLockShares)
{
	typename TestFixture::place here;
	typename TestFixture::place there;
	pglock::shared_mutex one(here.ref(), "book");
	pglock::shared_mutex two(there.ref(), "book");
	{
		std::shared_lock reader(one);
		std::shared_lock another(two, 1min);

		EXPECT_TRUE(another);
		another.unlock();
		EXPECT_FALSE(two.try_lock_for(2ms));
	}
	{
		std::unique_lock writer(two);

		EXPECT_FALSE(one.try_lock_shared());
		EXPECT_FALSE(one.try_lock_shared_for(2ms));
		EXPECT_FALSE(one.try_lock_shared_until(std::chrono::steady_clock::now() + 2ms));
	}
	EXPECT_TRUE(one.try_lock_shared());
	EXPECT_TRUE(one.try_lock_shared());
	one.unlock_shared();
	EXPECT_FALSE(two.try_lock());
	one.unlock_shared();
	EXPECT_TRUE(two.try_lock());
	two.unlock();
	EXPECT_TRUE(this->heard.all().empty());
}

TYPED_TEST(Mutexes, UnlockRollsBackATransactionThatHasFailed)
{
	typename TestFixture::place place;
	pglock::mutex mutex(place.ref(), "door");
	{
		std::lock_guard guard(mutex);

		if constexpr (std::is_same_v<typename TypeParam::session, server::libpq_session>)
			place.query("BEGIN");
		EXPECT_THROW(place.query("SELECT 1/0"), pglock::error);
	}
	EXPECT_TRUE(server::is_free("door"));
	EXPECT_TRUE(this->heard.all().empty());
}
