// What is left after failures: of waits, of connections, of transactions.
#include <atomic>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "handler.hpp"
#include "server.hpp"

using namespace std::chrono_literals;

namespace
{
template <typename Way> class Failure : public server::Behaviour<Way>
{
  protected:
	failures heard;
};

TYPED_TEST_SUITE(Failure, server::ways, server::way_names);

template <typename Way> class ReleaseByHand : public Failure<Way>
{
};

TYPED_TEST_SUITE(ReleaseByHand, server::ways_to_release, server::way_names);

/// As long as it lives, a role that may not release.
class powerless_role
{
  public:
	powerless_role()
	{
		administrator_.query("CREATE ROLE powerless");
		administrator_.query("REVOKE USAGE ON SCHEMA pglock FROM PUBLIC");
	}

	powerless_role(const powerless_role &) = delete;
	powerless_role &operator=(const powerless_role &) = delete;

	~powerless_role()
	{
		administrator_.query("GRANT USAGE ON SCHEMA pglock TO PUBLIC");
		administrator_.query("DROP ROLE powerless");
	}

  private:
	server::libpq_session administrator_;
};
} // namespace

TYPED_TEST(Failure, ACancelledWaitHoldsNothingAndCanBeRepeated)
{
	typename TestFixture::place place;
	std::optional<pglock::guard> holder(std::in_place, place.ref(), "busy", this->with());
	typename TestFixture::waiter waiter("busy");

	server::wait_for_waiters();
	server::libpq_session().query("SELECT pg_cancel_backend(" + waiter.pid() + ")");
	EXPECT_EQ(waiter.outcome(), "57014");
	EXPECT_FALSE(waiter.lock().locked());
	holder.reset();
	place.finish();
	EXPECT_TRUE(server::is_free("busy"));

	if (this->at_session_scope)
	{
		EXPECT_TRUE(waiter.lock().acquire());
		EXPECT_FALSE(server::is_free("busy"));
		EXPECT_TRUE(waiter.lock().release());
	}
}

TYPED_TEST(Failure, AWaitWhoseConnectionEndsIsLost)
{
	typename TestFixture::place place;
	pglock::guard holder(place.ref(), "busy", this->with());
	typename TestFixture::waiter waiter("busy");

	server::wait_for_waiters();
	server::terminate(waiter.pid());
	EXPECT_EQ(waiter.outcome(), "lost");
	EXPECT_TRUE(server::soon([&] { return waiter.lock().lost(); }));
	EXPECT_FALSE(waiter.lock().locked());
}

TYPED_TEST(Failure, ATimeoutCanBeRepeatedAndLeavesTheTransactionUsable)
{
	typename TestFixture::place place;
	typename TestFixture::place other;
	std::optional<pglock::guard> holder(std::in_place, place.ref(), "busy", this->with());
	pglock::lock lock(other.ref(), "busy", this->with({.timeout = 2ms}));

	for (int i = 0; i < 3; i++)
		EXPECT_FALSE(lock.acquire());
	EXPECT_EQ(other.query("SELECT 1"), "1");
	holder.reset();
	place.finish();
	EXPECT_TRUE(lock.acquire());
	lock.release();
}

TYPED_TEST(ReleaseByHand, NeverFreesANewerHolder)
{
	typename TestFixture::place place;
	typename TestFixture::place other;
	pglock::lock lock(place.ref(), "mine", this->with());
	pglock::lock newer(other.ref(), "mine", this->with());

	EXPECT_TRUE(lock.acquire());
	EXPECT_TRUE(lock.release());
	EXPECT_TRUE(newer.acquire());
	EXPECT_FALSE(lock.release());
	EXPECT_FALSE(server::is_free("mine"));
	EXPECT_TRUE(newer.release());

	EXPECT_TRUE(lock.acquire());
	place.query("SELECT pg_advisory_unlock_all()");
	EXPECT_TRUE(newer.acquire());
	EXPECT_THROW(lock.release(), pglock::not_held_error);
	EXPECT_FALSE(lock.release());
	EXPECT_FALSE(server::is_free("mine"));
}

TYPED_TEST(Failure, AConnectionKilledUnderAGuardIsSeenAndReported)
{
	typename TestFixture::place place;
	{
		pglock::guard guard(place.ref(), "mine", this->with());

		EXPECT_FALSE(guard.lost());
		server::terminate(server::pid_of(place));
		EXPECT_TRUE(server::soon([&] { return guard.lost(); }));
		EXPECT_TRUE(server::is_free("mine"));
	}
	EXPECT_EQ(this->heard.all().size(), this->at_session_scope ? 1u : 0u);
}

TYPED_TEST(Failure, AKilledConnectionIsAnError)
{
	typename TestFixture::place place;
	pglock::lock lock(place.ref(), "mine", this->with());

	server::terminate(server::pid_of(place));
	EXPECT_THROW((void)lock.acquire(), pglock::connection_lost);
	EXPECT_FALSE(lock.locked());
}

TYPED_TEST(Failure, DeadlocksAreToldApart)
{
	typename TestFixture::place one;
	typename TestFixture::place two;
	std::optional<pglock::guard> first(std::in_place, one.ref(), "first", this->with());
	std::optional<pglock::guard> second(std::in_place, two.ref(), "second", this->with());
	std::atomic<int> deadlocks = 0;
	auto cross = [&](auto &place, auto &held, const char *wanted) {
		try
		{
			pglock::guard guard(place.ref(), wanted, this->with());
		}
		catch (const pglock::deadlock_error &error)
		{
			EXPECT_EQ(error.sqlstate(), "40P01");
			deadlocks++;
		}
		held.reset();
		place.rollback();
	};
	std::thread thread([&] { cross(one, first, "second"); });

	cross(two, second, "first");
	thread.join();
	EXPECT_EQ(deadlocks, 1);
	EXPECT_TRUE(server::is_free("first") && server::is_free("second"));
}

TYPED_TEST(Failure, AnExceptionRollsBackAndReleases)
{
	typename TestFixture::session place;

	place.query("CREATE TEMP TABLE work (step int)");
	place.begin();
	if (this->at_session_scope)
	{
		place.query("INSERT INTO work VALUES (0)");
		place.commit();
		place.begin();
	}
	try
	{
		pglock::guard guard(place.ref(), "work", this->with());

		place.query("INSERT INTO work VALUES (1)");
		throw std::runtime_error("work has failed");
	}
	catch (const std::runtime_error &)
	{
	}
	EXPECT_TRUE(server::is_free("work"));
	EXPECT_EQ(place.query("SELECT count(*) FROM work WHERE step = 1"), "0");
	EXPECT_TRUE(this->heard.all().empty());
}

TYPED_TEST(Failure, AFailedTransactionIsRolledBackAndTheLockReleased)
{
	typename TestFixture::session place;

	place.begin();
	EXPECT_THROW(
		{
			pglock::guard guard(place.ref(), "work", this->with());

			place.query("SELECT 1/0");
		},
		pglock::error);
	EXPECT_TRUE(server::is_free("work"));
	EXPECT_EQ(place.query("SELECT 1"), "1");
	EXPECT_TRUE(this->heard.all().empty());
}

TYPED_TEST(Failure, TheTransactionIsLeftAloneIfTold)
{
	typename TestFixture::session place;

	place.query("CREATE TEMP TABLE work (step int)");
	place.begin();
	try
	{
		pglock::guard guard(place.ref(), "work", this->with({.rollback_on_error = false}));

		place.query("INSERT INTO work VALUES (1)");
		throw std::runtime_error("work has failed");
	}
	catch (const std::runtime_error &)
	{
	}
	EXPECT_EQ(server::is_free("work"), this->at_session_scope);
	EXPECT_EQ(place.query("SELECT count(*) FROM work"), "1");
	place.commit();
	EXPECT_TRUE(server::is_free("work"));
	EXPECT_EQ(place.query("SELECT count(*) FROM work"), "1");
}

TYPED_TEST(Failure, AnExceptionWithinAnotherRollsBackToo)
{
	typename TestFixture::session place;

	struct cleaner
	{
		typename TestFixture::session &place;

		~cleaner()
		{
			try
			{
				place.begin();
				pglock::guard guard(place.ref(), "cleaning", TestFixture::with());
				place.query("CREATE TABLE half_cleaned ()");
				throw 2;
			}
			catch (int)
			{
			}
		}
	};

	try
	{
		cleaner cleaner{place};

		throw 1;
	}
	catch (int)
	{
	}
	EXPECT_TRUE(server::is_free("cleaning"));
	EXPECT_EQ(place.query("SELECT to_regclass('half_cleaned') IS NULL"), "t");
}

TYPED_TEST(ReleaseByHand, WhatTheServerRefusesToReleaseIsFreeAllTheSame)
{
	powerless_role role;
	typename TestFixture::place place;
	{
		pglock::guard guard(place.ref(), "refused");

		place.query("SET ROLE powerless");
		EXPECT_THROW(guard.unlock(), pglock::error);
		EXPECT_FALSE(server::is_free("refused")) << "the guard still has it";
	}
	EXPECT_EQ(this->heard.all().size(), 1u);
	EXPECT_TRUE(server::soon([] { return server::is_free("refused"); }));
	EXPECT_TRUE(place.ref().lost());
}
