// Statements are prepared once, and recovered when a pooler has mixed them up.
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <postgres_lock/lock.hpp>

#include "fake.hpp"

using pglock::statements;
using pglock::transaction_status;
using texts = std::vector<std::string>;

namespace
{
class Statements : public testing::Test
{
  protected:
	fake::preparing_connection connection;

	/// The first words of what is asked.
	texts
	asked()
	{
		texts found;

		for (const std::string &each : connection.asked())
			found.push_back(each.substr(0, each.find_first_of(" |", each.find(' ') + 1)));
		return found;
	}

	void
	take_and_release(statements how = statements::automatic)
	{
		pglock::guard guard(connection, "a", {.statements = how});
	}
};

const texts in_full = {"PREPARE pglock_lock_1", "EXECUTE pglock_lock_1", "PREPARE pglock_release_1",
					   "EXECUTE pglock_release_1"};
const texts prepared = {"EXECUTE pglock_lock_1", "EXECUTE pglock_release_1"};
const texts unprepared = {"CALL pglock.lock($1::text)", "SELECT pglock.release($1::text,"};
} // namespace

TEST_F(Statements, ArePreparedOncePerConnection)
{
	take_and_release();
	EXPECT_EQ(asked(), in_full);
	take_and_release();
	take_and_release();
	EXPECT_EQ(asked(), (texts{prepared[0], prepared[1], prepared[0], prepared[1]}));
	connection.memory.renew();
	take_and_release();
	EXPECT_EQ(asked(), in_full) << "a new session knows none";
}

TEST_F(Statements, AreNotPreparedIfTold)
{
	take_and_release(statements::unprepared);
	EXPECT_EQ(asked(), unprepared);
}

TEST_F(Statements, AreNotPreparedWhereFailureWouldCostATransaction)
{
	connection.status = transaction_status::open;
	take_and_release();
	EXPECT_EQ(asked(), (texts{"SELECT pglock.acquire($1::text,", unprepared[1]}));
	take_and_release(statements::prepared);
	EXPECT_EQ(asked()[1], "EXECUTE pglock_acquire_1") << "unless told";
}

TEST_F(Statements, ThatAreGoneAreDoneWithoutAndPreparedAnew)
{
	take_and_release();
	asked();
	connection.fail("26000");
	take_and_release();
	EXPECT_EQ(asked(), (texts{prepared[0], unprepared[0], prepared[1]}));
	take_and_release();
	EXPECT_EQ(asked(), (texts{in_full[0], in_full[1], prepared[1]}));
}

TEST_F(Statements, ThatAreThereAlreadyAreUsed)
{
	connection.fail("42P05");
	take_and_release();
	EXPECT_EQ(asked(), in_full);
}

TEST_F(Statements, ThatAreOtherOnesAreDoneWithout)
{
	connection.fail("42P05");
	connection.fail("08P01", "bind message supplies 3 parameters, but it requires 1");
	take_and_release();
	EXPECT_EQ(asked(), (texts{in_full[0], in_full[1], unprepared[0], in_full[2], in_full[3]}));
}

TEST_F(Statements, AreGivenUpWhenTroubleStays)
{
	for (int i = 0; i < 3; i++)
	{
		connection.answer("t");
		connection.fail("26000");
		pglock::lock lock(connection, "a");
		EXPECT_TRUE(lock.acquire());
		connection.memory.session()->prepared.reset();
		EXPECT_TRUE(lock.release());
	}
	asked();
	take_and_release();
	EXPECT_EQ(asked(), unprepared);
}

TEST_F(Statements, TroubleInATransactionIsPassedOn)
{
	connection.status = transaction_status::open;
	connection.answer("t");
	connection.fail("26000");
	EXPECT_THROW(take_and_release(statements::prepared), pglock::error);
	EXPECT_EQ(asked().size(), 2u);
}

TEST_F(Statements, OtherErrorsArePassedOn)
{
	connection.fail("57014");
	EXPECT_THROW(take_and_release(), pglock::error);
	connection.fail("08006");
	EXPECT_THROW(take_and_release(), pglock::connection_lost);
	EXPECT_EQ(asked().size(), 2u);
}
