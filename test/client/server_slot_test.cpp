// Slots: so many hold one at a time, each another one, until they end.
#include <array>
#include <atomic>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "handler.hpp"
#include "server.hpp"

using namespace std::chrono_literals;
using pglock::slot_guard;

namespace
{
template <typename Way> class Slots : public server::Behaviour<Way>
{
  protected:
	using typename server::Behaviour<Way>::place;

	failures heard;

	/// Can a slot be had at once, and which?
	static int
	try_slot(place &place, int slots)
	{
		try
		{
			int slot = slot_guard(place.ref(), "pool", slots,
								  server::Behaviour<Way>::with({.timeout = 0s}))
						   .slot();

			place.finish();
			return slot;
		}
		catch (const pglock::timeout_error &)
		{
			return 0;
		}
	}
};

TYPED_TEST_SUITE(Slots, server::ways, server::way_names);

/// Notes who is inside, and whether two had one slot.
class crowd
{
  public:
	void
	enter(int slot)
	{
		int now = ++inside_;

		for (int seen = most_; seen < now && !most_.compare_exchange_weak(seen, now);)
			;
		if (taken_.at(static_cast<std::size_t>(slot)).exchange(true))
			met_ = true;
	}

	void
	leave(int slot)
	{
		taken_.at(static_cast<std::size_t>(slot)) = false;
		--inside_;
	}

	[[nodiscard]] int
	most() const noexcept
	{
		return most_;
	}

	[[nodiscard]] bool
	met() const noexcept
	{
		return met_;
	}

  private:
	std::atomic<int> inside_ = 0;
	std::atomic<int> most_ = 0;
	std::atomic<bool> met_ = false;
	std::array<std::atomic<bool>, 4> taken_{};
};
} // namespace

TYPED_TEST(Slots, SoManyAndNoMore)
{
	typename TestFixture::place first;
	typename TestFixture::place second;
	typename TestFixture::place third;
	std::optional<slot_guard> one(std::in_place, first.ref(), "pool", 2, this->with());
	slot_guard other(second.ref(), "pool", 2, this->with({.timeout = 5s}));
	int freed = one->slot();

	EXPECT_EQ(freed + other.slot(), 3) << "1 and 2";
	EXPECT_EQ(this->try_slot(third, 2), 0);
	EXPECT_THROW(slot_guard(third.ref(), "pool", 2, this->with({.timeout = 10ms})).unlock(),
				 pglock::timeout_error);
	EXPECT_EQ(third.query("SELECT 1"), "1") << "it goes on";
	one.reset();
	first.finish();
	EXPECT_EQ(this->try_slot(third, 2), freed);
}

TYPED_TEST(Slots, NeverMoreAtOnceNorTwoInOne)
{
	crowd crowd;
	std::vector<std::thread> threads;

	for (int i = 0; i < 5; i++)
		threads.emplace_back([&] {
			typename TestFixture::place place;

			for (int round = 0; round < 20; round++)
			{
				slot_guard guard(place.ref(), "crowd", 3, this->with());

				crowd.enter(guard.slot());
				std::this_thread::sleep_for(200us);
				crowd.leave(guard.slot());
				guard.unlock();
				place.finish();
			}
		});
	for (std::thread &thread : threads)
		thread.join();
	EXPECT_LE(crowd.most(), 3);
	EXPECT_GT(crowd.most(), 1) << "they are together, else this sees nothing";
	EXPECT_FALSE(crowd.met());
	EXPECT_TRUE(this->heard.all().empty());
}

TYPED_TEST(Slots, OneConnectionMayHoldSeveralButNotWaitForItself)
{
	typename TestFixture::place place;
	slot_guard first(place.ref(), "own", 2, this->with());
	slot_guard second(place.ref(), "own", 2, this->with());

	EXPECT_NE(first.slot(), second.slot());
	try
	{
		slot_guard none(place.ref(), "own", 2, this->with());
		FAIL();
	}
	catch (const pglock::error &error)
	{
		EXPECT_EQ(error.sqlstate(), "55000");
	}
}

TYPED_TEST(Slots, AnExceptionRollsBackAndReleases)
{
	typename TestFixture::session place;
	typename TestFixture::place other;

	place.query("CREATE TEMP TABLE work (step int)");
	place.begin();
	EXPECT_THROW(
		{
			slot_guard guard(place.ref(), "pool", 1, this->with());

			place.query("INSERT INTO work VALUES (1)");
			throw std::runtime_error("work has failed");
		},
		std::runtime_error);
	EXPECT_EQ(this->try_slot(other, 1), 1);
	EXPECT_EQ(place.query("SELECT count(*) FROM work"), "0");
	EXPECT_TRUE(this->heard.all().empty());
}

TYPED_TEST(Slots, ASessionThatEndsLeavesItFree)
{
	typename TestFixture::place place;
	typename TestFixture::place other;
	{
		slot_guard guard(place.ref(), "pool", 1, this->with());

		EXPECT_EQ(this->try_slot(other, 1), 0);
		server::terminate(server::pid_of(place));
		EXPECT_TRUE(server::soon([&] { return guard.lost(); }));
		EXPECT_FALSE(guard.locked());
		EXPECT_EQ(this->try_slot(other, 1), 1);
	}
	EXPECT_EQ(this->heard.all().size(), this->at_session_scope ? 1u : 0u);
}

TEST(SlotRelease, AtTransactionScopeIsTheEndOfTheTransaction)
{
	server::libpq_session session;

	for (const char *end : {"COMMIT", "ROLLBACK", "ROLLBACK TO before"})
	{
		session.begin();
		session.query("SAVEPOINT before");

		slot_guard guard(session.get(), "pool", 1, {.scope = pglock::scope::transaction});

		EXPECT_TRUE(guard.locked()) << end;
		session.query(end);
		EXPECT_EQ(server::libpq_session().query("SELECT pglock.try_slot('pool', 1)"), "1") << end;
		session.query("ROLLBACK");
		EXPECT_FALSE(guard.locked()) << end;
	}
}

TEST(SlotRelease, OfWhatOthersReleasedIsAnError)
{
	server::libpq_session session;
	slot_guard guard(session.get(), "pool", 3);

	session.query("SELECT pglock.release_slot('pool', " + std::to_string(guard.slot()) + ")");
	EXPECT_THROW(guard.unlock(), pglock::not_held_error);
	guard.unlock();
}

TEST(SlotRelease, ThatCouldNotBeSentIsSentLater)
{
	failures heard;
	server::libpq_session session;
	server::libpq_session other;
	auto is_free = [&] { return other.query("SELECT pglock.try_slot('pool', 1)") == "1"; };
	{
		slot_guard guard(session.get(), "pool", 1);

		ASSERT_EQ(PQsendQuery(session.get(), "SELECT 1"), 1);
	}
	EXPECT_EQ(heard.all().size(), 1u);
	while (PGresult *result = PQgetResult(session.get()))
		PQclear(result);
	EXPECT_FALSE(is_free());

	pglock::guard next(session.get(), "another");

	EXPECT_TRUE(is_free());
}

TEST(SlotRelease, AcquireAndReleaseCostOneRoundTripEach)
{
	server::libpq_session session;
	auto take_and_release = [&] { slot_guard(session.get(), "pool", 3).unlock(); };

	EXPECT_EQ(server::round_trips(session, take_and_release), 4) << "the first time it prepares";
	EXPECT_EQ(server::round_trips(session, take_and_release), 2);
}
