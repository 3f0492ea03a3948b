// What a slot's guard says to the server, what it makes of the answers, and how it ends.
#include <chrono>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include <gtest/gtest.h>
#include <postgres_lock/lock.hpp>

#include "child.hpp"
#include "fake.hpp"
#include "handler.hpp"

using namespace std::chrono_literals;
using pglock::slot_guard;
using pglock::transaction_status;
using texts = std::vector<std::string>;

static_assert(!std::is_copy_constructible_v<slot_guard> && !std::is_copy_assignable_v<slot_guard>);
static_assert(std::is_nothrow_move_constructible_v<slot_guard>);
static_assert(std::is_nothrow_move_assignable_v<slot_guard>);
static_assert(!std::is_convertible_v<slot_guard &, pglock::guard &>, "a slot has no token");

namespace
{
const std::string call_slot = "CALL pglock.slot($1::text, $2::integer, $3::interval)|";
const std::string acquire =
	"SELECT pglock.acquire_slot($1::text, $2::integer, $3::interval, $4::text)|";
const std::string try_ = "SELECT pglock.try_slot($1::text, $2::integer, $3::text)|";
const std::string release = "SELECT pglock.release_slot($1::text, $2::integer)|";

const pglock::options in_transaction{.scope = pglock::scope::transaction};

class Slot : public testing::Test
{
  protected:
	fake::connection connection;
	failures heard;

	/// What the guard's constructor throws: its SQLSTATE and message.
	std::string
	refusal(const pglock::options &options = {})
	{
		try
		{
			slot_guard refused(connection, "a", 4, options);
		}
		catch (const pglock::timeout_error &error)
		{
			return "timeout " + std::string(error.sqlstate()) + ' ' + error.what();
		}
		catch (const pglock::error &error)
		{
			return std::string(error.sqlstate()) + ' ' + error.what();
		}
		return "none";
	}
};
} // namespace

TEST_F(Slot, OutsideABlockItCallsSlot)
{
	connection.answer("3");
	{
		slot_guard guard(connection, "a", 4);

		EXPECT_EQ(guard.slot(), 3);
		EXPECT_TRUE(guard.locked());
		EXPECT_FALSE(guard.lost());
	}
	EXPECT_EQ(connection.asked(), (texts{call_slot + "a|4|NULL", release + "a|3"}));
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(Slot, InABlockItAcquires)
{
	connection.status = transaction_status::open;
	for (const char *number : {"1", "2147483647"})
	{
		connection.answer(number);

		slot_guard guard(connection, 42, 2147483647);

		EXPECT_EQ(std::to_string(guard.slot()), number);
		guard.unlock();
		guard.unlock();
		EXPECT_FALSE(guard.locked());
		EXPECT_EQ(connection.asked(),
				  (texts{acquire + "42|2147483647|NULL|session", release + "42|" + number}));
	}
}

TEST_F(Slot, WaitsAsLongAsItIsTold)
{
	for (auto status : {transaction_status::idle, transaction_status::open})
	{
		connection.status = status;
		for (pglock::time_limit timeout : {pglock::time_limit(5s), {0s}, {-1s}})
		{
			connection.answer("1");
			slot_guard(connection, "a", 4, {.timeout = timeout}).unlock();
		}
		EXPECT_EQ(connection.asked(),
				  (texts{status == transaction_status::idle ? call_slot + "a|4|5000 ms"
															: acquire + "a|4|5000 ms|session",
						 release + "a|1", try_ + "a|4|session", release + "a|1",
						 try_ + "a|4|session", release + "a|1"}));
	}
}

TEST_F(Slot, ThrowsWhenTheTimePasses)
{
	const std::string late = "timeout 55P03 could not acquire a slot of \"a\" in time";

	connection.fail("55P03", "could not acquire a slot of \"a\" in time\nDETAIL:  any");
	EXPECT_EQ(refusal({.timeout = 5s}), late);
	connection.answer([] { return pglock::reply(); });
	EXPECT_EQ(refusal({.timeout = 0s}), late);
	connection.status = transaction_status::open;
	connection.answer([] { return pglock::reply(); });
	EXPECT_EQ(refusal({.timeout = 5s}), late);
	EXPECT_EQ(connection.asked().size(), 3u) << "nothing to release";
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(Slot, OtherErrorsArePassedOn)
{
	connection.fail("55P03", "canceling statement due to lock timeout");
	EXPECT_EQ(refusal({.timeout = 5s}), "55P03 canceling statement due to lock timeout");
	connection.fail("55000", "cannot wait for a slot of \"a\"");
	EXPECT_EQ(refusal(), "55000 cannot wait for a slot of \"a\"");
	connection.fail("40P01");
	EXPECT_THROW(slot_guard(connection, "a", 4).unlock(), pglock::deadlock_error);
	connection.fail("57P01");
	EXPECT_THROW(slot_guard(connection, "a", 4).unlock(), pglock::connection_lost);
	EXPECT_EQ(connection.asked().size(), 4u) << "nothing to release";
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(Slot, WhatMakesNoSenseIsRefusedWithoutAsking)
{
	EXPECT_THROW(slot_guard(connection, "a", 4, {.shared = true}).unlock(), std::invalid_argument);
	EXPECT_EQ(refusal(in_transaction),
			  "25P01 a slot of \"a\" needs a transaction block for transaction scope");
	connection.status = transaction_status::busy;
	EXPECT_NE(refusal(), "none");
	EXPECT_TRUE(connection.asked().empty());
}

TEST_F(Slot, AConnectionMayHoldSeveralAndTheLock)
{
	connection.answer("1");
	connection.answer("2");

	std::optional<slot_guard> first(std::in_place, connection, "a", 4);
	slot_guard second(connection, "a", 4);
	pglock::guard lock(connection, "a");

	connection.asked();
	first.reset();
	EXPECT_EQ(connection.asked(), texts{release + "a|1"});
	EXPECT_TRUE(second.locked());
	EXPECT_THROW(pglock::guard(connection, "a").unlock(), std::system_error);
}

TEST_F(Slot, AtTransactionScopeItEndsWithTheTransaction)
{
	connection.status = transaction_status::open;
	connection.answer("2");
	{
		slot_guard guard(connection, "a", 4, in_transaction);

		EXPECT_TRUE(guard.locked());
		connection.status = transaction_status::idle;
		EXPECT_FALSE(guard.locked());
		EXPECT_EQ(guard.slot(), 2) << "which it was";
	}
	EXPECT_EQ(connection.asked(), texts{acquire + "a|4|NULL|transaction"});
}

TEST_F(Slot, RollsBackBeforeItReleasesAfterAnException)
{
	for (bool rolls_back : {true, false})
	{
		connection.status = transaction_status::idle;
		connection.answer("2");
		EXPECT_THROW(
			{
				slot_guard guard(connection, "a", 4, {.rollback_on_error = rolls_back});

				connection.asked();
				connection.status = transaction_status::open;
				throw std::runtime_error("work has failed");
			},
			std::runtime_error);
		EXPECT_EQ(connection.asked(),
				  rolls_back ? (texts{"ROLLBACK", release + "a|2"}) : texts{release + "a|2"});
	}
}

TEST_F(Slot, WhatCouldNotBeReleasedIsReleasedFirst)
{
	connection.answer("2");
	{
		slot_guard guard(connection, "a", 4);

		connection.status = transaction_status::busy;
	}
	EXPECT_EQ(heard.all().size(), 1u);
	connection.status = transaction_status::idle;
	connection.asked();
	connection.answer("f"); // somebody else has done so
	connection.answer("1");

	slot_guard next(connection, "a", 4);

	EXPECT_EQ(connection.asked(), (texts{release + "a|2", call_slot + "a|4|NULL"}));
	EXPECT_EQ(next.slot(), 1);
}

TEST_F(Slot, WhatFailsAtTheEndGoesToTheHandler)
{
	connection.answer("2");
	{
		slot_guard guard(connection, "a", 4);

		connection.answer("f");
	}
	EXPECT_EQ(heard.all(), texts{"a: slot 2 of \"a\" was not held: somebody released it"});
	EXPECT_TRUE(connection.memory.session()->owed.empty());
	EXPECT_FALSE(connection.closed);
	{
		slot_guard refused(connection, "a", 4);

		connection.fail("42501");
	}
	EXPECT_EQ(heard.all().size(), 2u);
	EXPECT_TRUE(connection.closed);
}

TEST_F(Slot, Moves)
{
	connection.answer("1");
	connection.answer("2");

	slot_guard first(connection, "a", 4);
	slot_guard second(connection, "a", 4);

	connection.asked();
	first = std::move(second);
	EXPECT_EQ(connection.asked(), texts{release + "a|1"}) << "gives back what it held";
	EXPECT_EQ(first.slot(), 2);
	EXPECT_FALSE(second.locked() || second.lost());
	second.unlock();
	EXPECT_THROW((void)second.slot(), std::logic_error);
	EXPECT_TRUE(connection.asked().empty());
}

TEST_F(Slot, AnotherProcessForgetsItAndSendsNothing)
{
	connection.answer("1");

	std::optional<slot_guard> held(std::in_place, connection, "a", 4);

	connection.status = transaction_status::failed;
	connection.asked();
	EXPECT_TRUE(in_child([&] {
		bool is_held = held->locked();

		held.reset();
		return !is_held && connection.asked().empty() && heard.all().empty();
	}));
	EXPECT_TRUE(held->locked());
}

TEST_F(Slot, IsPreparedOnce)
{
	fake::preparing_connection preparing;

	for (int i = 0; i < 2; i++)
	{
		preparing.status = transaction_status::idle;
		if (i == 0)
			preparing.answer("");
		preparing.answer("1");
		slot_guard(preparing, "a", 4).unlock();
	}

	auto asked = preparing.asked();

	EXPECT_EQ(asked.size(), 6u);
	EXPECT_EQ(asked[1], "EXECUTE pglock_slot_1|a|4|NULL");
	EXPECT_EQ(asked[4], asked[1]);
	EXPECT_EQ(asked[5], "EXECUTE pglock_release_slot_1|a|1");
}
