// What a lock object says to the server, and what it makes of the answers.
#include <chrono>
#include <cmath>
#include <string>
#include <system_error>
#include <type_traits>
#include <vector>

#include <gtest/gtest.h>
#include <postgres_lock/lock.hpp>

#include "fake.hpp"
#include "handler.hpp"

using namespace std::chrono_literals;
using pglock::guard;
using pglock::lock;
using pglock::transaction_status;
using texts = std::vector<std::string>;

static_assert(!std::is_copy_constructible_v<lock> && !std::is_move_constructible_v<lock>);

namespace
{
const std::string call_lock = "CALL pglock.lock($1::text, $2::interval, $3::boolean)";
const std::string acquire = "SELECT pglock.acquire($1::text, $2::interval, $3::boolean, $4::text)";
const std::string try_ = "SELECT pglock.try($1::text, $2::boolean, $3::text)";
const std::string release = "SELECT pglock.release($1::text, false)|";
const std::string release_shared = "SELECT pglock.release($1::text, true)|";
const std::string held = "SELECT pglock.held($1::text)";

class Lock : public testing::Test
{
  protected:
	fake::connection connection;
	failures heard;
};
} // namespace

TEST_F(Lock, OutsideABlockItCallsLock)
{
	lock lock(connection, "a");

	EXPECT_FALSE(lock.locked());
	EXPECT_TRUE(lock.acquire());
	EXPECT_TRUE(lock.locked());
	EXPECT_EQ(lock.depth(), 1u);
	EXPECT_TRUE(lock.release());
	EXPECT_FALSE(lock.locked());
	EXPECT_EQ(connection.asked(), (texts{"CALL pglock.lock($1::text)|a", release + "a"}));
}

TEST_F(Lock, InABlockItAcquires)
{
	lock lock(connection, 42, {.shared = true});

	connection.status = transaction_status::open;
	EXPECT_TRUE(lock.acquire());
	EXPECT_TRUE(lock.release());
	EXPECT_EQ(connection.asked(), (texts{acquire + "|42|NULL|t|session", release_shared + "42"}));
}

TEST_F(Lock, TimeoutsHaveAUnit)
{
	lock lock(connection, "a", {.timeout = 5s});

	EXPECT_TRUE(lock.acquire());
	lock.release();
	EXPECT_TRUE(lock.acquire(10ms));
	lock.release();
	EXPECT_TRUE(lock.acquire(std::chrono::hours(1)));
	lock.release();
	EXPECT_EQ(connection.asked(),
			  (texts{call_lock + "|a|5000 ms|f", release + "a", call_lock + "|a|10 ms|f",
					 release + "a", call_lock + "|a|3600000 ms|f", release + "a"}));
}

TEST_F(Lock, WithoutTimeItTries)
{
	lock lock(connection, "a", {.timeout = 0s});

	connection.answer("f");
	EXPECT_FALSE(lock.acquire());
	EXPECT_FALSE(lock.locked());
	connection.answer("f");
	EXPECT_FALSE(lock.acquire(-1ms));
	EXPECT_TRUE(lock.try_acquire());
	EXPECT_EQ(connection.asked(),
			  (texts{try_ + "|a|f|session", try_ + "|a|f|session", try_ + "|a|f|session"}));
}

TEST_F(Lock, WaitsForAnyDuration)
{
	using std::chrono::duration;
	auto asked = [&](const pglock::time_limit &timeout) {
		std::string by_option;

		connection.asked();
		{
			guard guard(connection, "a", {.timeout = timeout});

			by_option = connection.asked()[0];
		}
		lock lock(connection, "a");

		EXPECT_TRUE(lock.acquire(timeout));
		EXPECT_EQ(connection.asked()[1], by_option);
		return by_option;
	};
	const std::string wait = "CALL pglock.lock($1::text, $2::interval, $3::boolean)|a|";

	for (pglock::time_limit longest : {pglock::time_limit(24h * 25),
									   {std::chrono::hours::max()},
									   {std::chrono::milliseconds::max()}})
		EXPECT_EQ(asked(longest), wait + "2147483647 ms|f");
	EXPECT_EQ(asked(24h * 24), wait + "2073600000 ms|f");
	EXPECT_EQ(asked(1001us), wait + "2 ms|f");
	EXPECT_EQ(asked(duration<double>(0.5)), wait + "500 ms|f");
	for (pglock::time_limit none :
		 {pglock::time_limit(-1s), {std::chrono::hours::min()}, {duration<double>(std::nan(""))}})
		EXPECT_TRUE(asked(none).starts_with("SELECT pglock.try("));
}

TEST_F(Lock, ItsOwnTimeoutIsFalse)
{
	lock lock(connection, "a");

	connection.fail("55P03", "could not acquire lock \"a\" in time");
	EXPECT_FALSE(lock.acquire(1ms));
	connection.fail("55P03", "ERROR:  could not acquire lock \"a\" in time\nCONTEXT: any");
	EXPECT_FALSE(lock.acquire(1ms));
	EXPECT_FALSE(lock.locked());
	connection.status = transaction_status::open;
	connection.answer("f");
	EXPECT_FALSE(lock.acquire(1ms));
}

TEST_F(Lock, LockTimeoutOfTheSessionIsAnError)
{
	lock lock(connection, "could not acquire lock ");

	connection.fail("55P03", "canceling statement due to lock timeout\n"
							 "CONTEXT:  while acquiring lock \"could not acquire lock \"");
	try
	{
		(void)lock.acquire(1s);
		FAIL();
	}
	catch (const pglock::error &error)
	{
		EXPECT_EQ(error.sqlstate(), "55P03");
		EXPECT_EQ(dynamic_cast<const pglock::timeout_error *>(&error), nullptr);
	}
	EXPECT_FALSE(lock.locked());
}

TEST_F(Lock, ExclusiveIsNotTakenTwice)
{
	lock lock(connection, "a");

	EXPECT_TRUE(lock.acquire());
	EXPECT_THROW((void)lock.acquire(), pglock::acquire_error);
	EXPECT_THROW((void)lock.try_acquire(), pglock::acquire_error);
	EXPECT_EQ(lock.depth(), 1u);
	EXPECT_TRUE(lock.release());
	EXPECT_TRUE(lock.acquire());
}

TEST_F(Lock, SharedCounts)
{
	lock lock(connection, "a", {.shared = true});

	EXPECT_TRUE(lock.acquire());
	EXPECT_TRUE(lock.acquire());
	EXPECT_EQ(lock.depth(), 2u);
	connection.answer("f");
	EXPECT_FALSE(lock.try_acquire());
	EXPECT_EQ(lock.depth(), 2u);
	EXPECT_TRUE(lock.release());
	EXPECT_TRUE(lock.locked());
	EXPECT_TRUE(lock.release());
	EXPECT_FALSE(lock.locked());
	EXPECT_FALSE(lock.release());
}

TEST_F(Lock, ReleaseOfWhatIsNotTakenAsksNobody)
{
	lock lock(connection, "a");

	EXPECT_FALSE(lock.release());
	EXPECT_TRUE(lock.acquire());
	EXPECT_TRUE(lock.release());
	EXPECT_FALSE(lock.release());
	EXPECT_EQ(connection.asked().size(), 2u);
}

TEST_F(Lock, NoHoldWhereOneWasBelievedIsAnError)
{
	lock lock(connection, "a", {.shared = true});

	EXPECT_TRUE(lock.acquire());
	EXPECT_TRUE(lock.acquire());
	connection.answer("f");
	EXPECT_THROW(lock.release(), pglock::not_held_error);
	EXPECT_FALSE(lock.locked());
	EXPECT_FALSE(lock.release());
}

TEST_F(Lock, AReleaseThatFailsCanBeRepeated)
{
	lock lock(connection, "a");

	EXPECT_TRUE(lock.acquire());
	connection.fail("57014");
	EXPECT_THROW(lock.release(), pglock::error);
	EXPECT_TRUE(lock.locked());
	EXPECT_TRUE(lock.release());
}

TEST_F(Lock, AnAcquireThatFailsHoldsNothingAndCanBeRepeated)
{
	lock lock(connection, "a");

	connection.fail("40P01");
	EXPECT_THROW((void)lock.acquire(), pglock::deadlock_error);
	EXPECT_FALSE(lock.locked());
	EXPECT_TRUE(connection.memory.session()->holds.empty());
	EXPECT_TRUE(lock.acquire());
}

TEST_F(Lock, TheSameKeyOfAnotherObjectWouldDeadlock)
{
	lock exclusive(connection, "a");
	lock another(connection, "a");
	lock shared(connection, "a", {.shared = true});
	lock more(connection, "a", {.shared = true});
	lock free(connection, "b");

	EXPECT_TRUE(exclusive.acquire());
	connection.asked();
	for (lock *each : {&another, &shared})
		try
		{
			(void)each->acquire();
			FAIL();
		}
		catch (const std::system_error &error)
		{
			EXPECT_EQ(error.code(), std::errc::resource_deadlock_would_occur);
		}
	EXPECT_THROW((void)another.try_acquire(), std::system_error);
	EXPECT_TRUE(connection.asked().empty()) << "nobody has to be asked";
	EXPECT_TRUE(free.acquire());

	exclusive.release();
	EXPECT_TRUE(shared.acquire());
	EXPECT_TRUE(more.acquire()) << "shared does not exclude shared";
	EXPECT_THROW((void)exclusive.acquire(), std::system_error);
}

TEST_F(Lock, OtherConnectionsAreForTheServer)
{
	fake::connection elsewhere;
	lock here(connection, "a");
	lock there(elsewhere, "a");

	EXPECT_TRUE(here.acquire());
	EXPECT_TRUE(there.acquire());
}

TEST_F(Lock, TransactionScopeIsForgottenNotReleased)
{
	lock lock(connection, "a", {.scope = pglock::scope::transaction});

	connection.status = transaction_status::open;
	EXPECT_TRUE(lock.acquire());
	EXPECT_TRUE(lock.locked());
	EXPECT_FALSE(lock.release());
	EXPECT_FALSE(lock.locked());
	EXPECT_EQ(connection.asked(), texts{acquire + "|a|NULL|f|transaction"});
}

TEST_F(Lock, TransactionScopeNeedsATransaction)
{
	lock lock(connection, "a", {.scope = pglock::scope::transaction});

	try
	{
		(void)lock.acquire();
		FAIL();
	}
	catch (const pglock::error &error)
	{
		EXPECT_EQ(error.sqlstate(), "25P01");
	}
	EXPECT_TRUE(connection.asked().empty());
}

TEST_F(Lock, TransactionScopeEndsWithTheTransaction)
{
	lock lock(connection, "a", {.scope = pglock::scope::transaction});
	pglock::lock another(connection, "a", {.scope = pglock::scope::transaction});

	connection.status = transaction_status::open;
	EXPECT_TRUE(lock.acquire());
	connection.status = transaction_status::idle;
	EXPECT_FALSE(lock.locked());
	connection.status = transaction_status::open;
	connection.asked();
	connection.answer("f"); // it is another transaction
	EXPECT_TRUE(another.acquire());
	EXPECT_EQ(connection.asked(), (texts{held + "|a", acquire + "|a|NULL|f|transaction"}));
	EXPECT_FALSE(lock.locked());
	EXPECT_THROW((void)lock.acquire(), std::system_error);
}

TEST_F(Lock, HandleErrorRollsBackAndReleases)
{
	lock lock(connection, "a", {.shared = true});

	EXPECT_TRUE(lock.acquire());
	EXPECT_TRUE(lock.acquire());
	connection.asked();
	connection.status = transaction_status::failed;
	EXPECT_TRUE(lock.handle_error());
	EXPECT_EQ(connection.asked(), (texts{"ROLLBACK", release_shared + "a", release_shared + "a"}));
	connection.status = transaction_status::open;
	EXPECT_FALSE(lock.handle_error());
	EXPECT_EQ(connection.asked(), texts{"ROLLBACK"});
}

TEST_F(Lock, HandleErrorMayLeaveTheTransactionAlone)
{
	lock lock(connection, "a", {.rollback_on_error = false});

	EXPECT_TRUE(lock.acquire());
	connection.asked();
	connection.status = transaction_status::open;
	EXPECT_TRUE(lock.handle_error());
	EXPECT_EQ(connection.asked(), texts{release + "a"});
}

TEST_F(Lock, ADestructorReleasesAllLevels)
{
	{
		lock lock(connection, "a", {.shared = true});

		EXPECT_TRUE(lock.acquire());
		EXPECT_TRUE(lock.acquire());
		connection.asked();
	}
	EXPECT_EQ(connection.asked(), (texts{release_shared + "a", release_shared + "a"}));
	EXPECT_TRUE(connection.memory.session()->holds.empty());
}

TEST_F(Lock, ALostConnectionHoldsNothing)
{
	lock lock(connection, "a");

	EXPECT_TRUE(lock.acquire());
	EXPECT_FALSE(lock.lost());
	EXPECT_TRUE(lock.locked());
	connection.lost = true;
	EXPECT_TRUE(lock.lost());
	EXPECT_EQ(lock.depth(), 0u);
	EXPECT_FALSE(lock.locked());
	connection.fail("08006");
	EXPECT_THROW(lock.release(), pglock::connection_lost);
	EXPECT_FALSE(lock.locked());
}

TEST_F(Lock, ANewSessionHoldsNothing)
{
	lock stale(connection, "a");

	EXPECT_TRUE(stale.acquire());
	connection.memory.renew();
	EXPECT_TRUE(stale.lost());
	EXPECT_FALSE(stale.locked());
	connection.asked();

	lock fresh(connection, "a");

	EXPECT_TRUE(fresh.acquire());
	connection.asked();
	EXPECT_THROW(stale.release(), pglock::connection_lost) << "what is held now is not its own";
	EXPECT_THROW((void)stale.acquire(), pglock::connection_lost);
	EXPECT_TRUE(connection.asked().empty());
	EXPECT_TRUE(fresh.locked());
}

TEST_F(Lock, ABusyConnectionIsNotDisturbed)
{
	lock lock(connection, "a");

	EXPECT_TRUE(lock.acquire());
	connection.asked();
	connection.status = transaction_status::busy;
	EXPECT_THROW(lock.release(), pglock::error);
	EXPECT_TRUE(connection.asked().empty());
	connection.status = transaction_status::idle;
	EXPECT_TRUE(lock.release());
}

TEST_F(Lock, NumbersAreTheServers)
{
	lock lock(connection, "a");

	EXPECT_EQ(lock.key(), pglock::key("a"));
	connection.answer("142468548502040132");
	EXPECT_EQ(lock.lock_id(), 142468548502040132);
	connection.answer("1764000000000000");
	EXPECT_EQ(lock.token(), 1764000000000000);
	EXPECT_EQ(connection.asked(),
			  (texts{"SELECT pglock.lock_id($1::text)|a", "SELECT pglock.token($1::text)|a"}));
}

TEST_F(Lock, WhatHasATimeoutHasADeadline)
{
	auto connection = pglock::through<fake::timed_traits>(this->connection);
	auto limits_of = [&](const pglock::options &options, auto work) {
		lock lock(connection, "a", options);

		fake::timed_traits::limits.clear();
		work(lock);
		return fake::timed_traits::limits;
	};
	auto take = [&](lock &lock) {
		EXPECT_TRUE(lock.acquire());
		(void)lock.token();
		this->connection.status = transaction_status::open;
		lock.handle_error();
		this->connection.status = transaction_status::idle;
	};
	using seconds = std::vector<long>;

	EXPECT_EQ(limits_of({}, take), (seconds{-1, -1, -1, -1}));
	EXPECT_EQ(limits_of({.timeout = 60s}, take), (seconds{65, 5, 5, 5}));
	EXPECT_EQ(limits_of({.timeout = 0s, .grace = 20s}, take), (seconds{20, 20, 20, 20}));
	EXPECT_EQ(limits_of({},
						[](lock &lock) {
							EXPECT_TRUE(lock.acquire(30s));
							lock.release();
							EXPECT_TRUE(lock.try_acquire());
							lock.release();
							EXPECT_TRUE(lock.acquire());
							lock.release();
						}),
			  (seconds{35, 5, 5, 5, -1, -1}));
	EXPECT_EQ(limits_of({.timeout = std::chrono::hours::max()}, take)[0], 2147489);
}
