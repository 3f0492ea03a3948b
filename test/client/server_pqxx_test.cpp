// What is particular to libpqxx: transaction objects.
#include <optional>
#include <string>

#include "handler.hpp"
#include "server.hpp"

using namespace std::chrono_literals;

namespace
{
class Pqxx : public testing::Test
{
  protected:
	pqxx::connection connection;
	failures heard;

	std::string
	scopes_held()
	{
		return server::libpq_session().query(
			"SELECT string_agg(scope, ' ' ORDER BY scope) FROM pglock.locks WHERE granted");
	}
};
} // namespace

TEST_F(Pqxx, ATransactionObjectHoldsAtTransactionScope)
{
	pqxx::work work(connection);
	pglock::guard guard(work, "a");

	EXPECT_EQ(scopes_held(), "transaction");
	EXPECT_TRUE(guard.locked());
	work.commit();
	EXPECT_FALSE(guard.locked());
	EXPECT_EQ(scopes_held(), "");
	EXPECT_THROW(pglock::guard(work, "a").unlock(), pglock::error) << "it would not last";
}

TEST_F(Pqxx, AConnectionAndANontransactionHoldAtSessionScope)
{
	{
		pglock::guard guard(connection, "a");
		EXPECT_EQ(scopes_held(), "session");
	}
	pqxx::nontransaction transaction(connection);
	pglock::guard guard(transaction, "a");

	EXPECT_EQ(scopes_held(), "session");
}

TEST_F(Pqxx, EveryTransactionIsOne)
{
	{
		pqxx::read_transaction transaction(connection);
		pglock::guard guard(transaction, "a");
		EXPECT_EQ(scopes_held(), "transaction");
	}
	{
		pqxx::work work(connection);
		pqxx::subtransaction sub(work);
		pqxx::transaction_base &base = sub;
		pglock::guard guard(base, "a");
		EXPECT_EQ(scopes_held(), "transaction");
	}
	EXPECT_EQ(scopes_held(), "");
}

TEST_F(Pqxx, AnExceptionAbortsTheTransactionObject)
{
	pqxx::work work(connection);

	try
	{
		pglock::guard guard(work, "a");

		work.exec("CREATE TABLE half ()");
		throw 1;
	}
	catch (int)
	{
	}
	EXPECT_EQ(scopes_held(), "");
	EXPECT_THROW(work.commit(), pqxx::usage_error) << "the object knows";
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(Pqxx, ASessionLockOfATransactionObjectIsReleasedAfterItsEnd)
{
	pglock::options at_session{.scope = pglock::scope::session};
	{
		pqxx::work work(connection);
		pglock::guard guard(work, "a", at_session);

		work.commit();
		EXPECT_EQ(scopes_held(), "session");
	}
	EXPECT_EQ(scopes_held(), "");
	{
		pqxx::work work(connection);
		pglock::guard guard(work, "a", at_session);

		work.abort();
	}
	EXPECT_EQ(scopes_held(), "");
	try
	{
		pqxx::work work(connection);
		pglock::guard guard(work, "a", at_session);

		work.exec("SELECT 1/0");
	}
	catch (const pqxx::sql_error &)
	{
	}
	EXPECT_EQ(scopes_held(), "");
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(Pqxx, AConnectionsLockGoesRoundItsTransactions)
{
	try
	{
		pglock::guard guard(connection, "a");
		pqxx::work work(connection);

		work.exec("CREATE TABLE half ()");
		throw 1;
	}
	catch (int)
	{
	}
	EXPECT_EQ(scopes_held(), "");
	EXPECT_TRUE(heard.all().empty());

	pqxx::work work(connection);

	EXPECT_THROW(pglock::guard guard(connection, "a"), pglock::error)
		<< "the transaction object is in the way";
}

TEST_F(Pqxx, LocksOfAConnectionKnowOfEachOther)
{
	pglock::guard outer(connection, "a");
	pqxx::work work(connection);

	EXPECT_THROW(pglock::guard inner(work, "a"), std::system_error);
}

TEST_F(Pqxx, ALockOfATransactionThatHasEndedIsNoHindrance)
{
	pqxx::work work(connection);
	pglock::guard guard(work, "a");

	work.commit();

	pqxx::nontransaction next(connection);
	pglock::mutex mutex(next, "a");

	EXPECT_NO_THROW(mutex.lock());
	EXPECT_FALSE(guard.locked());
	mutex.unlock();
}

TEST_F(Pqxx, DeadlocksAndTimeoutsAreTold)
{
	server::libpq_session other;
	pglock::guard holder(other.get(), "a");

	EXPECT_THROW(pglock::guard late(connection, "a", {.timeout = 1ms}), pglock::timeout_error);

	pqxx::work work(connection);

	EXPECT_THROW(pglock::guard late(work, "a", {.timeout = 1ms}), pglock::timeout_error);
	EXPECT_NO_THROW(work.exec("SELECT 1"));
}

TEST_F(Pqxx, ErrorsHaveTheServersSqlstate)
{
	for (const std::string sqlstate :
		 {"22023", "25001", "40001", "40P01", "42501", "42601", "42883", "53100", "53200", "53400",
		  "54000", "55000", "55P03", "57014"})
		try
		{
			pglock::connection_ref(connection)
				.execute(("DO $$BEGIN RAISE 'as told' USING ERRCODE = '" + sqlstate + "'; END$$")
							 .c_str());
			ADD_FAILURE() << sqlstate;
		}
		catch (const pglock::error &failure)
		{
			EXPECT_EQ(failure.sqlstate(), sqlstate);
		}
}
