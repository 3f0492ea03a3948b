// The mutexes meet the standard's requirements.
#include <chrono>
#include <concepts>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <postgres_lock/lock.hpp>

#include "fake.hpp"
#include "handler.hpp"

using namespace std::chrono_literals;
using texts = std::vector<std::string>;

namespace
{
/// Runs four hours ahead, and one tick is a third of a second.
struct odd_clock
{
	using rep = double;
	using period = std::ratio<1, 3>;
	using duration = std::chrono::duration<rep, period>;
	using time_point = std::chrono::time_point<odd_clock>;
	[[maybe_unused]] static constexpr bool is_steady = false;

	static time_point
	now()
	{
		return time_point(std::chrono::steady_clock::now().time_since_epoch() +
						  std::chrono::hours(4));
	}
};

template <typename T>
concept basic_lockable = requires(T &mutex)
{
	mutex.lock();
	{
		mutex.unlock()
	}
	noexcept;
};

template <typename T>
concept lockable = basic_lockable<T> && requires(T &mutex)
{
	{
		mutex.try_lock()
		} -> std::same_as<bool>;
};

template <typename T, typename Duration, typename Time>
concept timed_lockable = lockable<T> && requires(T &mutex, Duration duration, Time time)
{
	{
		mutex.try_lock_for(duration)
		} -> std::same_as<bool>;
	{
		mutex.try_lock_until(time)
		} -> std::same_as<bool>;
};

template <typename T>
concept shared_lockable = requires(T &mutex)
{
	mutex.lock_shared();
	{
		mutex.unlock_shared()
	}
	noexcept;
	{
		mutex.try_lock_shared()
		} -> std::same_as<bool>;
};

template <typename T, typename Duration, typename Time>
concept shared_timed_lockable = shared_lockable<T> &&
	requires(T &mutex, Duration duration, Time time)
{
	{
		mutex.try_lock_shared_for(duration)
		} -> std::same_as<bool>;
	{
		mutex.try_lock_shared_until(time)
		} -> std::same_as<bool>;
};

template <typename T, typename Clock, typename Duration>
constexpr bool timed_by = timed_lockable<T, Duration, std::chrono::time_point<Clock, Duration>>;
template <typename T, typename Clock, typename Duration>
constexpr bool shared_timed_by =
	shared_timed_lockable<T, Duration, std::chrono::time_point<Clock, Duration>>;

static_assert(timed_by<pglock::mutex, std::chrono::steady_clock, std::chrono::nanoseconds>);
static_assert(timed_by<pglock::mutex, std::chrono::system_clock, std::chrono::hours>);
static_assert(timed_by<pglock::mutex, odd_clock, odd_clock::duration>);
static_assert(timed_by<pglock::shared_mutex, std::chrono::steady_clock, std::chrono::seconds>);
static_assert(
	shared_timed_by<pglock::shared_mutex, std::chrono::steady_clock, std::chrono::nanoseconds>);
static_assert(shared_timed_by<pglock::shared_mutex, odd_clock, odd_clock::duration>);
static_assert(!shared_lockable<pglock::mutex>);
static_assert(!std::is_copy_constructible_v<pglock::mutex>);
static_assert(!std::is_move_constructible_v<pglock::shared_mutex>);

const std::string late = "could not acquire lock \"a\" in time";

class Mutex : public testing::Test
{
  protected:
	fake::connection connection;
	failures heard;

	/// What the server is told to wait, in each attempt.
	std::vector<std::string>
	timeouts()
	{
		std::vector<std::string> found;

		for (const std::string &each : connection.asked())
		{
			auto start = each.find("|a|") + 3;

			found.push_back(each.starts_with("CALL") ? each.substr(start, each.rfind('|') - start)
													 : "try");
		}
		return found;
	}
};

bool
would_deadlock(auto action)
{
	try
	{
		action();
	}
	catch (const std::system_error &error)
	{
		return error.code() == std::errc::resource_deadlock_would_occur;
	}
	return false;
}
} // namespace

TEST_F(Mutex, WorksWithTheStandardsGuards)
{
	pglock::mutex a(connection, "a");
	pglock::mutex b(connection, "b");

	{
		std::lock_guard guard(a);
		EXPECT_TRUE(would_deadlock([&] { a.lock(); }));
	}
	{
		std::unique_lock guard(a, 5s);
		EXPECT_TRUE(guard.owns_lock());
	}
	{
		std::scoped_lock guard(a, b);
		EXPECT_EQ(connection.memory.session()->holds.size(), 2u);
	}
	EXPECT_TRUE(connection.memory.session()->holds.empty());
	EXPECT_EQ(connection.asked().size(), 8u);
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(Mutex, TwoOfOneKeyOnOneConnectionDoNotHang)
{
	pglock::mutex one(connection, "a");
	pglock::mutex two(connection, "a");

	EXPECT_TRUE(would_deadlock([&] { std::scoped_lock guard(one, two); }));
	EXPECT_TRUE(connection.memory.session()->holds.empty());
	EXPECT_EQ(connection.asked().size(), 2u) << "the first was taken and given back";
}

TEST_F(Mutex, ASecondLockOfOneObjectWouldDeadlock)
{
	pglock::mutex mutex(connection, "a");
	std::lock_guard guard(mutex);

	EXPECT_TRUE(would_deadlock([&] { mutex.lock(); }));
	EXPECT_TRUE(would_deadlock([&] { (void)mutex.try_lock(); }));
	EXPECT_TRUE(would_deadlock([&] { (void)mutex.try_lock_for(1s); }));
	EXPECT_TRUE(would_deadlock([&] { (void)mutex.try_lock_until(odd_clock::now()); }));
}

TEST_F(Mutex, IfLockThrowsNothingIsHeld)
{
	pglock::mutex mutex(connection, "a", {.timeout = 1ms});

	connection.fail("55P03", late.c_str());
	EXPECT_THROW(mutex.lock(), pglock::timeout_error);
	connection.fail("57014");
	EXPECT_THROW(mutex.lock(), pglock::error);
	connection.asked();
	mutex.unlock();
	EXPECT_TRUE(connection.asked().empty());
	EXPECT_TRUE(connection.memory.session()->holds.empty());
}

TEST_F(Mutex, UnlockTellsTheHandler)
{
	pglock::mutex mutex(connection, "a");

	{
		std::lock_guard guard(mutex);
		connection.fail("57014", "canceled");
	}
	EXPECT_EQ(heard.all(), texts{"a: canceled"});
}

TEST_F(Mutex, UnlockRollsBackOnlyWhatHasFailed)
{
	pglock::mutex mutex(connection, "a");

	mutex.lock();
	connection.status = pglock::transaction_status::open;
	connection.asked();
	mutex.unlock();
	EXPECT_EQ(connection.asked().size(), 1u);
	mutex.lock();
	connection.status = pglock::transaction_status::failed;
	connection.asked();
	mutex.unlock();
	EXPECT_EQ(connection.asked()[0], "ROLLBACK");
}

TEST_F(Mutex, RefusesToBeShared)
{
	EXPECT_THROW(pglock::mutex(connection, "a", {.shared = true}), std::invalid_argument);
}

TEST_F(Mutex, WaitsForAnyDuration)
{
	pglock::mutex mutex(connection, "a");
	auto take = [&](auto time) {
		EXPECT_TRUE(mutex.try_lock_for(time));
		auto asked = timeouts().front();
		mutex.unlock();
		connection.asked();
		return asked;
	};

	EXPECT_EQ(take(std::chrono::hours::max()), "2147483647 ms");
	EXPECT_EQ(take(std::chrono::hours::min()), "try");
	EXPECT_EQ(take(0s), "try");
	EXPECT_NE(take(1ns), "0 ms") << "it may have passed when the server is asked";
	EXPECT_EQ(take(std::chrono::duration<double, std::ratio<60>>(0.5)), "30000 ms");
	EXPECT_EQ(take(std::chrono::milliseconds(1500)), "1500 ms");
}

TEST_F(Mutex, WaitsUntilAnyTime)
{
	pglock::mutex mutex(connection, "a");

	EXPECT_TRUE(mutex.try_lock_until(std::chrono::system_clock::time_point::max()));
	mutex.unlock();
	EXPECT_TRUE(mutex.try_lock_until(std::chrono::steady_clock::time_point::min()));
	mutex.unlock();
	EXPECT_TRUE(mutex.try_lock_until(odd_clock::now() + 1h));
	mutex.unlock();

	auto asked = timeouts();

	EXPECT_EQ(asked[0], "2147483647 ms");
	EXPECT_EQ(asked[2], "try");
	EXPECT_GT(std::stol(asked[4]), 3590000);
	EXPECT_LE(std::stol(asked[4]), 3600000);
}

TEST_F(Mutex, DoesNotEndAWaitBeforeItsTime)
{
	pglock::mutex mutex(connection, "a");
	auto start = std::chrono::steady_clock::now();

	connection.fail("55P03", late.c_str()); // the server's clock runs fast
	connection.answer([]() -> pglock::reply {
		std::this_thread::sleep_for(1s);
		pglock::throw_error("55P03", late);
	});
	EXPECT_FALSE(mutex.try_lock_for(1s));
	EXPECT_GE(std::chrono::steady_clock::now() - start, 1s);
	EXPECT_EQ(connection.asked().size(), 2U);
}

TEST_F(Mutex, SharedWorksWithTheStandardsGuards)
{
	pglock::shared_mutex mutex(connection, "a");

	{
		std::shared_lock reader(mutex);
		std::shared_lock another(mutex, 1s);

		EXPECT_TRUE(another.owns_lock());
		EXPECT_TRUE(would_deadlock([&] { mutex.lock(); }));
		EXPECT_TRUE(would_deadlock([&] { (void)mutex.try_lock(); }));
		connection.asked();
	}
	EXPECT_EQ(connection.asked().size(), 2u) << "each level was given back";
	{
		std::unique_lock writer(mutex);
		EXPECT_TRUE(would_deadlock([&] { mutex.lock_shared(); }));
	}
	{
		std::shared_lock reader(mutex, std::try_to_lock);
		EXPECT_EQ(connection.asked().back(),
				  "SELECT pglock.try($1::text, $2::boolean, $3::text)|a|t|session");
	}
	EXPECT_TRUE(connection.memory.session()->holds.empty());
}

TEST_F(Mutex, UnlockSharedTellsTheHandlerAndKeepsTheOtherLevels)
{
	pglock::shared_mutex mutex(connection, "a");

	mutex.lock_shared();
	mutex.lock_shared();
	connection.fail("57014", "canceled");
	mutex.unlock_shared();
	EXPECT_EQ(heard.all(), texts{"a: canceled"});
	EXPECT_TRUE(would_deadlock([&] { mutex.lock(); }));
	mutex.unlock_shared();
	EXPECT_NO_THROW(mutex.lock());
}
