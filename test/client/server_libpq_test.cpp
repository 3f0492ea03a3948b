// What is particular to libpq: round trips, prepared statements, reset, pipelines.
#include <functional>
#include <optional>
#include <string>

#include <sys/wait.h>
#include <unistd.h>

#include "handler.hpp"
#include "server.hpp"

using namespace std::chrono_literals;
using server::libpq_session;

namespace
{
class Libpq : public testing::Test
{
  protected:
	libpq_session session;
	failures heard;

	long
	round_trips(const std::function<void()> &work)
	{
		return server::round_trips(session, work);
	}

	std::string
	prepared()
	{
		return session.query(
			"SELECT string_agg(name, ' ' ORDER BY name) FROM pg_prepared_statements");
	}

	void
	take_and_release(const pglock::options &options = {})
	{
		pglock::guard guard(session.get(), "a", options);
	}
};

const pglock::options always{.statements = pglock::statements::prepared};
const pglock::options never{.statements = pglock::statements::unprepared};
const std::string both = "pglock_lock_1 pglock_release_1";
} // namespace

TEST_F(Libpq, AcquireAndReleaseCostOneRoundTripEach)
{
	EXPECT_EQ(round_trips([&] { take_and_release(never); }), 2);
	EXPECT_EQ(round_trips([&] { take_and_release(); }), 4) << "the first time it prepares";
	EXPECT_EQ(round_trips([&] { take_and_release(); }), 2);
	EXPECT_EQ(round_trips([&] { take_and_release({.timeout = 5s}); }), 3) << "another statement";
	EXPECT_EQ(round_trips([&] { take_and_release({.timeout = 5s}); }), 2);
	session.begin();
	EXPECT_EQ(round_trips([&] { take_and_release(); }), 2);
	EXPECT_EQ(round_trips([&] { take_and_release({.scope = pglock::scope::transaction}); }), 1);
	session.commit();
	EXPECT_EQ(round_trips([&] { pglock::guard all(session.get(), {"a", "b", "c"}, never); }), 2);
}

TEST_F(Libpq, StatementsArePreparedOutsideTransactions)
{
	session.begin();
	take_and_release();
	EXPECT_EQ(prepared(), "");
	take_and_release(always);
	EXPECT_EQ(prepared(), "pglock_acquire_1 pglock_release_1");
	session.commit();
	take_and_release();
	EXPECT_EQ(prepared(), "pglock_acquire_1 pglock_lock_1 pglock_release_1");
}

TEST_F(Libpq, StatementsThatAreGoneDoNoHarm)
{
	take_and_release();
	EXPECT_EQ(prepared(), both);
	session.query("DEALLOCATE ALL");
	session.begin();
	take_and_release();
	EXPECT_EQ(session.query("SELECT 1"), "1") << "a transaction does not hear of it";
	session.commit();
	take_and_release();
	take_and_release();
	EXPECT_EQ(prepared(), both) << "and they are prepared anew";
}

TEST_F(Libpq, StatementsOfOthersDoNoHarm)
{
	session.query("PREPARE pglock_lock_1 (text, text) AS SELECT $1 || $2");
	session.query("PREPARE pglock_release_1 (text, boolean) AS SELECT pglock.release($1, $2)");
	{
		pglock::guard guard(session.get(), "a");

		EXPECT_FALSE(server::is_free("a"));
	}
	EXPECT_TRUE(server::is_free("a"));
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(Libpq, AResetConnectionHoldsNothing)
{
	pglock::lock stale(session.get(), "a");

	EXPECT_TRUE(stale.acquire());
	PQreset(session.get());
	EXPECT_TRUE(stale.lost());
	EXPECT_FALSE(stale.locked());

	pglock::lock fresh(session.get(), "a");

	EXPECT_TRUE(fresh.acquire());
	EXPECT_THROW(stale.release(), pglock::connection_lost);
	EXPECT_THROW((void)stale.acquire(), pglock::connection_lost);
	EXPECT_TRUE(fresh.release());
}

TEST_F(Libpq, AGuardMayOutliveItsConnection)
{
	{
		pglock::guard guard(session.get(), "a");

		session.close();
		EXPECT_TRUE(guard.lost());
		EXPECT_FALSE(guard.locked());
	}
	EXPECT_EQ(heard.all().size(), 1u);
	server::wait_for("pglock.is_free('a')");
}

TEST_F(Libpq, ANullConnectionIsRefused)
{
	PGconn *none = nullptr;

	EXPECT_THROW(pglock::guard guard(none, "a"), std::invalid_argument);
}

TEST_F(Libpq, AConnectionThatFailedIsLost)
{
	std::unique_ptr<PGconn, void (*)(PGconn *)> failed(PQconnectdb("host=/nonexistent"), PQfinish);
	pglock::lock lock(failed.get(), "a");

	EXPECT_TRUE(lock.lost());
	EXPECT_THROW((void)lock.acquire(), pglock::connection_lost);
}

TEST_F(Libpq, ACommandUnderWayIsNotDisturbed)
{
	pglock::lock lock(session.get(), "a");

	ASSERT_EQ(PQsendQuery(session.get(), "SELECT 'mine'"), 1);
	EXPECT_THROW((void)lock.acquire(), pglock::error);

	pglock::detail::result_ptr result(PQgetResult(session.get()));

	EXPECT_STREQ(PQgetvalue(result.get(), 0, 0), "mine");
	EXPECT_EQ(PQgetResult(session.get()), nullptr);
	EXPECT_TRUE(lock.acquire());
	ASSERT_EQ(PQenterPipelineMode(session.get()), 1);
	EXPECT_THROW(lock.release(), pglock::error);
	EXPECT_TRUE(lock.locked());
	ASSERT_EQ(PQexitPipelineMode(session.get()), 1);
	EXPECT_TRUE(lock.release());
}

TEST_F(Libpq, ErrorsSayWhatTheServerSaid)
{
	PQsetErrorVerbosity(session.get(), PQERRORS_SQLSTATE);
	session.query("SET statement_timeout = '20ms'");

	libpq_session other;
	pglock::guard holder(other.get(), "busy");
	pglock::lock lock(session.get(), "busy");

	EXPECT_FALSE(lock.acquire(1ms)) << "however terse libpq is";
	try
	{
		(void)lock.acquire();
		FAIL();
	}
	catch (const pglock::error &error)
	{
		EXPECT_EQ(error.sqlstate(), "57014");
		EXPECT_STREQ(error.what(), "canceling statement due to statement timeout\n"
								   "CONTEXT:  while acquiring lock \"busy\"");
	}
}

TEST_F(Libpq, AKeyIsTheSameLockAsInSql)
{
	pglock::guard guard(session.get(), "order:42");

	EXPECT_EQ(session.query("SELECT key || ' ' || mode || ' ' || scope FROM pglock.locks"),
			  "order:42 exclusive session");
}

TEST_F(Libpq, TransactionScopeFollowsTheTransaction)
{
	pglock::options in_transaction{.scope = pglock::scope::transaction};
	pglock::lock lock(session.get(), "a", in_transaction);

	EXPECT_THROW((void)lock.acquire(), pglock::error) << "there is none";
	for (const char *end : {"COMMIT", "ROLLBACK", "ROLLBACK TO before"})
	{
		session.begin();
		session.query("SAVEPOINT before");
		EXPECT_TRUE(lock.acquire()) << end;
		EXPECT_THROW((void)lock.acquire(), pglock::acquire_error);
		EXPECT_FALSE(server::is_free("a"));
		session.query(end);
		EXPECT_TRUE(server::is_free("a"));
	}
	EXPECT_TRUE(lock.acquire()) << "the object has noticed";
	EXPECT_FALSE(lock.release());
	EXPECT_FALSE(server::is_free("a"));
	session.commit();
}

TEST_F(Libpq, AnotherTransactionIsNotTheLocksOwn)
{
	pglock::lock lock(session.get(), "a", {.scope = pglock::scope::transaction});

	session.query("CREATE TEMP TABLE checked (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)");
	for (const char *end : {"COMMIT", "ROLLBACK", "SELECT 1/0", "COMMIT AND CHAIN",
							"INSERT INTO checked VALUES (1), (1)", "PREPARE TRANSACTION 'locked'"})
	{
		session.begin();
		EXPECT_TRUE(lock.acquire()) << end;
		EXPECT_TRUE(lock.locked());
		PQclear(PQexec(session.get(), end));
		PQclear(PQexec(session.get(), "COMMIT"));
		session.begin();
		EXPECT_FALSE(lock.locked()) << end;
		session.rollback();
	}
	session.query("ROLLBACK PREPARED 'locked'");

	session.begin();
	EXPECT_TRUE(lock.acquire());
	session.query("SAVEPOINT later");
	session.query("ROLLBACK TO later");
	EXPECT_TRUE(lock.locked());
	session.rollback();
}

TEST_F(Libpq, ALockThatCouldNotBeReleasedIsReleasedLater)
{
	{
		pglock::guard guard(session.get(), "a");

		ASSERT_EQ(PQsendQuery(session.get(), "SELECT 1"), 1);
	}
	EXPECT_EQ(heard.all().size(), 1u);
	while (PGresult *result = PQgetResult(session.get()))
		PQclear(result);
	EXPECT_FALSE(server::is_free("a")) << "nothing could be sent";
	{
		pglock::guard next(session.get(), "b");

		EXPECT_TRUE(server::is_free("a"));
	}
	EXPECT_TRUE(server::is_free("b"));
}

TEST_F(Libpq, AForkedProcessLeavesTheLockAlone)
{
	std::optional<pglock::guard> guard(std::in_place, session.get(), "a");
	pid_t child = fork();
	int status = 0;

	if (child == 0)
	{
		guard.reset();
		_exit(0);
	}
	ASSERT_EQ(waitpid(child, &status, 0), child);
	EXPECT_EQ(status, 0);
	EXPECT_FALSE(server::is_free("a"));
	EXPECT_EQ(session.query("SELECT 'well'"), "well");
	guard.reset();
	EXPECT_TRUE(server::is_free("a"));
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(Libpq, AnIdleSessionIsKeptAliveWithoutARoundTrip)
{
	libpq_session kept;
	libpq_session left;
	pglock::lock lock(kept.get(), "a");

	EXPECT_TRUE(lock.acquire());
	EXPECT_EQ(round_trips([&] { EXPECT_TRUE(pglock::keep_alive(session.get())); }), 0);
	kept.query("SET idle_session_timeout = '1s'");
	left.query("SET idle_session_timeout = '1s'");
	EXPECT_TRUE(server::soon([&] {
		EXPECT_TRUE(pglock::keep_alive(kept.get()));
		return pglock::connection_ref(left.get()).lost();
	})) << "else the test sees nothing";
	EXPECT_FALSE(lock.lost());
	EXPECT_TRUE(lock.release());

	kept.begin();
	EXPECT_TRUE(pglock::keep_alive(kept.get())) << "there is nothing to do";
	kept.rollback();
	ASSERT_EQ(PQsendQuery(kept.get(), "SELECT 'mine'"), 1);
	EXPECT_TRUE(pglock::keep_alive(kept.get()));

	pglock::detail::result_ptr mine(PQgetResult(kept.get()));

	EXPECT_STREQ(PQgetvalue(mine.get(), 0, 0), "mine");
	EXPECT_EQ(PQgetResult(kept.get()), nullptr);

	pqxx::connection other;

	EXPECT_FALSE(pglock::keep_alive(other));
}
