// What a guard does at its end: after success, after errors, in which order.
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <postgres_lock/lock.hpp>

#include "child.hpp"
#include "fake.hpp"
#include "handler.hpp"

using namespace std::chrono_literals;
using pglock::guard;
using pglock::transaction_status;
using texts = std::vector<std::string>;

static_assert(!std::is_copy_constructible_v<guard> && !std::is_copy_assignable_v<guard>);
static_assert(std::is_nothrow_move_constructible_v<guard>);
static_assert(std::is_nothrow_move_assignable_v<guard>);
static_assert(std::is_nothrow_destructible_v<guard>);

namespace
{
const std::string release = "SELECT pglock.release($1::text, false)|";

class Guard : public testing::Test
{
  protected:
	fake::connection connection;
	failures heard;

	/// Ends a guard by an exception while the connection is in that state.
	texts
	fail_under_guard(transaction_status status, const pglock::options &options = {})
	{
		try
		{
			guard guard(connection, "a", options);

			connection.asked();
			connection.status = status;
			throw std::runtime_error("work has failed");
		}
		catch (const std::runtime_error &)
		{
		}
		return connection.asked();
	}
};
} // namespace

TEST_F(Guard, ReleasesAtItsEnd)
{
	{
		guard guard(connection, "a", {.timeout = 5s});

		EXPECT_TRUE(guard.locked());
		connection.asked();
	}
	EXPECT_EQ(connection.asked(), texts{release + "a"});
}

TEST_F(Guard, ThrowsWhenTheTimePasses)
{
	connection.fail("55P03", "could not acquire lock \"a\" in time");
	try
	{
		guard guard(connection, "a", {.timeout = 5s});
		FAIL();
	}
	catch (const pglock::timeout_error &error)
	{
		EXPECT_EQ(error.sqlstate(), "55P03");
		EXPECT_STREQ(error.what(), "could not acquire lock \"a\" in time");
	}
	EXPECT_EQ(connection.asked().size(), 1u) << "nothing to release";
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(Guard, UnlocksOnce)
{
	guard guard(connection, "a");

	connection.asked();
	guard.unlock();
	EXPECT_FALSE(guard.locked());
	guard.unlock();
	EXPECT_EQ(connection.asked(), texts{release + "a"});
}

TEST_F(Guard, Moves)
{
	std::optional<guard> outer;
	{
		guard inner(connection, "a");

		outer.emplace(std::move(inner));
		EXPECT_FALSE(inner.locked());
		EXPECT_THROW((void)inner.token(), std::logic_error);
		inner.unlock();
		connection.asked();
	}
	EXPECT_TRUE(connection.asked().empty());
	EXPECT_TRUE(outer->locked());
	*outer = guard(connection, "b");
	EXPECT_EQ(connection.asked()[1], release + "a") << "gives back what it held";
	outer.reset();
	EXPECT_EQ(connection.asked(), texts{release + "b"});
}

TEST_F(Guard, RollsBackBeforeItReleasesAfterAnException)
{
	EXPECT_EQ(fail_under_guard(transaction_status::open), (texts{"ROLLBACK", release + "a"}));
}

TEST_F(Guard, LeavesNoTransactionWhereThereIsNone)
{
	EXPECT_EQ(fail_under_guard(transaction_status::idle), texts{release + "a"});
}

TEST_F(Guard, RollsBackAFailedTransaction)
{
	EXPECT_EQ(fail_under_guard(transaction_status::failed), (texts{"ROLLBACK", release + "a"}));
	{
		guard guard(connection, "a");

		connection.asked();
		connection.status = transaction_status::failed;
	}
	EXPECT_EQ(connection.asked(), (texts{"ROLLBACK", release + "a"})) << "without exception";
}

TEST_F(Guard, LeavesAnOpenTransactionAloneAfterSuccess)
{
	{
		guard guard(connection, "a");

		connection.asked();
		connection.status = transaction_status::open;
	}
	EXPECT_EQ(connection.asked(), texts{release + "a"});
}

TEST_F(Guard, LeavesTheTransactionAloneIfTold)
{
	EXPECT_EQ(fail_under_guard(transaction_status::open, {.rollback_on_error = false}),
			  texts{release + "a"});
}

TEST_F(Guard, AfterUnlockTheTransactionIsNotItsBusiness)
{
	try
	{
		guard guard(connection, "a");

		guard.unlock();
		connection.asked();
		connection.status = transaction_status::open;
		throw 1;
	}
	catch (int)
	{
	}
	EXPECT_TRUE(connection.asked().empty());
}

TEST_F(Guard, ExceptionsOutsideAreNotItsOwn)
{
	struct cleaner
	{
		fake::connection &connection;

		~cleaner()
		{
			guard guard(connection, "a");

			connection.asked();
			connection.status = transaction_status::open;
		}
	};

	try
	{
		cleaner cleaner{connection};

		throw 1;
	}
	catch (int)
	{
	}
	EXPECT_EQ(connection.asked(), texts{release + "a"}) << "it was made during the exception";
}

TEST_F(Guard, AnExceptionInsideAnotherIsItsOwn)
{
	struct cleaner
	{
		fake::connection &connection;

		~cleaner()
		{
			try
			{
				guard guard(connection, "a");

				connection.asked();
				connection.status = transaction_status::open;
				throw 2;
			}
			catch (int)
			{
			}
		}
	};

	try
	{
		cleaner cleaner{connection};

		throw 1;
	}
	catch (int)
	{
	}
	EXPECT_EQ(connection.asked(), (texts{"ROLLBACK", release + "a"}));
}

TEST_F(Guard, WhatFailsAtTheEndGoesToTheHandler)
{
	{
		guard guard(connection, "a");

		connection.fail("57014", "canceled");
	}
	EXPECT_EQ(heard.all(), texts{"a: canceled"});
	{
		guard guard(connection, "b");

		connection.answer("f");
	}
	EXPECT_EQ(heard.all().back(), "b: lock \"b\" was not held: somebody released it");
	EXPECT_TRUE(connection.memory.session()->holds.empty());
}

TEST_F(Guard, WithoutRollbackAFailedTransactionKeepsTheLock)
{
	connection.answer("t");
	connection.fail("25P02", "current transaction is aborted");
	EXPECT_EQ(fail_under_guard(transaction_status::failed, {.rollback_on_error = false}),
			  texts{release + "a"});
	EXPECT_EQ(heard.all(), texts{"a: current transaction is aborted"});
}

TEST_F(Guard, HoldsSeveral)
{
	{
		guard guard(connection, {"b", "a\"\\{,}", 7, "b", ""}, {.shared = true, .timeout = 1s});

		EXPECT_EQ(connection.asked(),
				  texts{"SELECT pglock.acquire_all($1::text[], $2::interval, $3::boolean, "
						"$4::text)|{\"\",\"7\",\"a\\\"\\\\{,}\",\"b\"}|1000 ms|t|session"});
		EXPECT_THROW(pglock::guard another(connection, "b"), std::system_error);
	}
	EXPECT_EQ(connection.asked(),
			  texts{"SELECT pg_catalog.bool_and(pglock.release(key, $2::boolean)) FROM "
					"pg_catalog.unnest($1::text[]) AS key|{\"\",\"7\",\"a\\\"\\\\{,}\",\"b\"}|t"});
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(Guard, SeveralMayBeOne)
{
	guard guard(connection, {"a", "a"});

	EXPECT_EQ(connection.asked()[0].substr(0, 4), "CALL");
	EXPECT_THROW(pglock::guard none(connection, std::vector<pglock::key>()), std::invalid_argument);
}

TEST_F(Guard, NoneOfSeveralIsHeldAfterATimeout)
{
	std::vector<pglock::key> both{"a", "b"};

	connection.answer("f");
	EXPECT_THROW(guard late(connection, both, {.timeout = 0s}), pglock::timeout_error);
	EXPECT_NO_THROW(guard free(connection, "b"));
}

TEST_F(Guard, WhatCouldNotBeReleasedIsReleasedFirst)
{
	const std::string try_ = "SELECT pglock.try($1::text, $2::boolean, $3::text)|";
	{
		guard both(connection, {"a", "b"}, {.shared = true});
		guard one(connection, "c");

		connection.status = transaction_status::busy;
	}
	EXPECT_EQ(heard.all().size(), 2u);
	connection.status = transaction_status::idle;
	connection.asked();

	pglock::lock next(connection, "c");

	connection.fail("57014");
	EXPECT_THROW((void)next.try_acquire(), pglock::error) << "not before";
	EXPECT_EQ(connection.asked(), texts{release + "c"});
	connection.answer("f"); // somebody else has done so
	EXPECT_TRUE(next.try_acquire());
	EXPECT_EQ(connection.asked(),
			  (texts{release + "c", "SELECT pglock.release($1::text, true)|a",
					 "SELECT pglock.release($1::text, true)|b", try_ + "c|f|session"}));
	EXPECT_TRUE(next.release());
	EXPECT_EQ(connection.asked(), texts{release + "c"}) << "that was all";
}

TEST_F(Guard, AReleaseBringsTheOthersAlong)
{
	guard kept(connection, "a");
	{
		guard lost(connection, "b");

		connection.fail("57014");
	}
	connection.asked();
	connection.answer("t");
	connection.fail("57014");
	EXPECT_NO_THROW(kept.unlock()) << "that went well";
	EXPECT_EQ(connection.asked(), (texts{release + "a", release + "b"}));
	EXPECT_EQ(heard.all().size(), 1u);
	EXPECT_EQ(guard(connection, "c").locked(), true);
	EXPECT_EQ(connection.asked()[0], release + "b");
}

TEST_F(Guard, ARefusedReleaseClosesTheConnection)
{
	{
		guard refused(connection, "a");

		connection.fail("42501");
	}
	EXPECT_TRUE(connection.closed);
	EXPECT_EQ(heard.all().size(), 1u);
	EXPECT_TRUE(connection.memory.session()->owed.empty());
}

TEST_F(Guard, WhatMayBeReleasedLaterDoesNotCloseTheConnection)
{
	for (const char *sqlstate : {"57014", "25P02", "26000", ""})
	{
		guard kept(connection, "a", {.rollback_on_error = false});

		connection.fail(sqlstate);
	}
	EXPECT_FALSE(connection.closed);
	EXPECT_EQ(heard.all().size(), 4u);
	{
		guard thrown(connection, "b");

		connection.asked();
		connection.fail("42501");
		EXPECT_THROW(thrown.unlock(), pglock::error);
		EXPECT_FALSE(connection.closed) << "the program knows";
	}
	EXPECT_EQ(connection.asked().size(), 2u) << "and the guard has tried again";
	EXPECT_FALSE(connection.closed);
	{
		guard released_by_others(connection, "c");

		connection.answer("f");
	}
	EXPECT_FALSE(connection.closed);
}

TEST_F(Guard, NothingIsOwedWhereNothingIsHeld)
{
	{
		guard in_transaction(connection, "a", {.rollback_on_error = false});

		connection.fail("08006");
	}
	{
		guard released_by_others(connection, "b");

		connection.answer("f");
	}
	connection.status = transaction_status::open;
	{
		guard in_transaction(connection, "c", {.scope = pglock::scope::transaction});

		connection.status = transaction_status::busy;
	}
	EXPECT_TRUE(connection.memory.session()->owed.empty());
}

TEST_F(Guard, AnotherProcessForgetsItAndSendsNothing)
{
	std::optional<guard> held(std::in_place, connection, "a");
	pglock::shared_mutex mutex(connection, "b");
	pglock::lock lock(connection, "c");

	mutex.lock_shared();
	mutex.lock_shared();
	EXPECT_TRUE(lock.acquire());
	connection.status = transaction_status::failed;
	connection.asked();
	EXPECT_TRUE(in_child([&] {
		bool is_held = held->locked() || lock.locked();

		held.reset();
		mutex.unlock_shared();
		mutex.unlock_shared();
		is_held = lock.release() || lock.handle_error() || is_held;
		return !is_held && lock.lost() && connection.asked().empty() && heard.all().empty();
	}));
	EXPECT_TRUE(in_child([&] {
		try
		{
			pglock::mutex(connection, "d").lock();
		}
		catch (const pglock::connection_lost &)
		{
			return connection.asked().empty();
		}
		return false;
	}));
	EXPECT_TRUE(in_child([] {
		fake::connection own;

		return guard(own, "a").locked();
	}));
	EXPECT_TRUE(held->locked()) << "it is still ours";
	held.reset();
	mutex.unlock_shared();
	mutex.unlock_shared();
	EXPECT_TRUE(lock.release());
	EXPECT_EQ(connection.asked().size(), 5u) << "ROLLBACK and four releases";
}

TEST_F(Guard, TakesTheKeysOfARange)
{
	const std::string all =
		"SELECT pglock.acquire_all($1::text[], $2::interval, $3::boolean, $4::text)|";

	{
		guard texts(connection, std::vector<std::string>{"b", "a"});
		guard numbers(connection, std::set<int>{2, 1});
		guard one(connection, std::vector<const char *>{"c"});
	}

	texts asked = connection.asked();

	ASSERT_GE(asked.size(), 3U);
	EXPECT_EQ(asked[0], all + "{\"a\",\"b\"}|NULL|f|session");
	EXPECT_EQ(asked[1], all + "{\"1\",\"2\"}|NULL|f|session");
	EXPECT_EQ(asked[2], "CALL pglock.lock($1::text)|c");
	EXPECT_THROW(guard none(connection, std::vector<std::string>()), std::invalid_argument);
}

TEST_F(Guard, IsNotThereIfTheLockIsNotToBeHad)
{
	connection.answer("f");
	EXPECT_FALSE(pglock::try_guard(connection, "a"));
	EXPECT_EQ(connection.asked(),
			  texts{"SELECT pglock.try($1::text, $2::boolean, $3::text)|a|f|session"});

	connection.fail("55P03", "could not acquire lock \"a\" in time");
	EXPECT_FALSE(pglock::try_guard(connection, "a", {.timeout = 1s}));
	EXPECT_EQ(connection.asked(),
			  texts{"CALL pglock.lock($1::text, $2::interval, $3::boolean)|a|1000 ms|f"});

	connection.fail("57014");
	EXPECT_THROW((void)pglock::try_guard(connection, "a"), pglock::error);
	connection.asked();

	{
		auto guard = pglock::try_guard(connection, "a");

		ASSERT_TRUE(guard);
		EXPECT_TRUE(guard->locked());
		connection.asked();
	}
	EXPECT_EQ(connection.asked(), texts{release + "a"});
}
