// Critical sections: what they do, what is left when they fail, and that they take one round trip.
#include <functional>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <postgres_lock/critical_section.hpp>

#include "server.hpp"

using namespace std::chrono_literals;
using pglock::critical_section;
using pglock::query;
using server::libpq_session;

namespace
{
class CriticalSection : public testing::Test
{
  protected:
	/// With a table for what they do, and one whose constraint is looked at by COMMIT.
	CriticalSection()
	{
		session.query("DROP TABLE IF EXISTS work, unique_work");
		session.query("CREATE TABLE work (id int)");
		session.query("CREATE TABLE unique_work (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)");
		PQsetNoticeProcessor(
			session.get(),
			[](void *to, const char *text) { static_cast<std::string *>(to)->append(text); },
			&notices);
	}

	/// The SQLSTATE that the work throws, or "none".
	static std::string
	sqlstate_of(const std::function<void()> &work)
	{
		try
		{
			work();
		}
		catch (const pglock::error &error)
		{
			return std::string(error.sqlstate());
		}
		return "none";
	}

	/// Runs statements, and gives the SQLSTATE.
	std::string
	run(const std::vector<query> &queries, const pglock::options &options = {})
	{
		return sqlstate_of([&] { critical_section(session.get(), "a", options, queries); });
	}

	/// The connection is as it was before, and the lock is free.
	void
	expect_untouched(const std::string &when)
	{
		EXPECT_EQ(PQpipelineStatus(session.get()), PQ_PIPELINE_OFF) << when;
		EXPECT_EQ(PQtransactionStatus(session.get()), PQTRANS_IDLE) << when;
		EXPECT_EQ(session.query("SELECT 'well'"), "well") << when;
		EXPECT_TRUE(server::is_free("a")) << when;
	}

	/// Nor has it done anything.
	void
	expect_nothing(const std::string &when)
	{
		expect_untouched(when);
		EXPECT_EQ(session.query("SELECT count(*) FROM work"), "0") << when;
	}

	/// How many rows were put in twice, when 8 clients put in each that they do not find.
	static long
	duplicates(const std::function<void(PGconn *, const query &)> &put_in)
	{
		std::vector<std::thread> clients;

		for (int i = 0; i < 8; i++)
			clients.emplace_back([&] {
				libpq_session client;

				for (int id = 1; id <= rows; id++)
					put_in(client.get(), {"INSERT INTO work SELECT $1 WHERE NOT EXISTS "
										  "(SELECT FROM work WHERE id = $1)",
										  {std::to_string(id)}});
			});
		for (std::thread &client : clients)
			client.join();
		return std::stol(libpq_session().query("SELECT count(*) - count(DISTINCT id) FROM work"));
	}

	static constexpr int rows = 250;
	libpq_session session;
	std::string notices;
};

const query insert("INSERT INTO work VALUES (1)");
const query broken("SELECT 1/0");
} // namespace

TEST_F(CriticalSection, AnswersWhatEachStatementAnswered)
{
	auto results =
		critical_section(session.get(), "a", "INSERT INTO work VALUES (1), (2)",
						 query{"UPDATE work SET id = id + $1::int WHERE id = 2 RETURNING id",
							   {"40"}},
						 "", query{"SELECT $1::text IS NULL, $2::text", {std::nullopt, "it's"}});

	ASSERT_EQ(results.size(), 4u);
	EXPECT_STREQ(PQcmdTuples(results[0].get()), "2");
	EXPECT_STREQ(PQgetvalue(results[1].get(), 0, 0), "42");
	EXPECT_EQ(PQresultStatus(results[2].get()), PGRES_EMPTY_QUERY);
	EXPECT_STREQ(PQgetvalue(results[3].get(), 0, 0), "t");
	EXPECT_STREQ(PQgetvalue(results[3].get(), 0, 1), "it's");
	EXPECT_EQ(libpq_session().query("SELECT string_agg(id::text, ' ' ORDER BY id) FROM work"),
			  "1 42");
	EXPECT_EQ(notices, "");
	expect_untouched("after it");
}

TEST_F(CriticalSection, HoldsTheLockAtTransactionScope)
{
	auto results = critical_section(
		session.get(), 42,
		"SELECT key || ' ' || mode || ' ' || scope FROM pglock.locks WHERE granted");

	EXPECT_STREQ(PQgetvalue(results[0].get(), 0, 0), "42 exclusive transaction");
}

TEST_F(CriticalSection, EightClientsMakeNoDuplicates)
{
	auto in_a_critical_section = [](PGconn *connection, const query &insertion) {
		critical_section(connection, "a", insertion);
	};
	// as a pipeline that releases before COMMIT does
	auto released_early = [](PGconn *connection, const query &insertion) {
		pglock::detail::pipeline pipeline(*connection);

		pipeline.send("BEGIN");
		pipeline.send("SELECT pglock.acquire('a')");
		insertion.send(pipeline);
		pipeline.send("SELECT pglock.release('a')");
		pipeline.send("COMMIT");
		pipeline.sync();
	};

	EXPECT_EQ(duplicates(in_a_critical_section), 0);
	EXPECT_EQ(session.query("SELECT count(*) FROM work"), std::to_string(rows));
	EXPECT_TRUE(server::soon([&] {
		session.query("TRUNCATE work");
		return duplicates(released_early) > 0;
	})) << "else the test sees nothing";
}

TEST_F(CriticalSection, SeesWhatTheLastHolderWroteWhateverTheDefault)
{
	libpq_session other;
	std::string seen;

	session.query("SET default_transaction_isolation = 'serializable'");
	other.begin();
	other.query("SELECT pglock.acquire('a', scope => 'transaction')");
	other.query("INSERT INTO work VALUES (7)");

	std::thread waiter([&] {
		auto results = critical_section(session.get(), "a", "SELECT max(id) FROM work");

		seen = PQgetvalue(results[0].get(), 0, 0);
	});

	server::wait_for_waiters();
	other.commit();
	waiter.join();
	EXPECT_EQ(seen, "7");
	EXPECT_EQ(notices, "");
}

TEST_F(CriticalSection, TakesOneRoundTrip)
{
	auto of = [&](const pglock::options &options) {
		return server::round_trips(session, [&] {
			critical_section(session.get(), "a", options, insert, "UPDATE work SET id = 2");
		});
	};

	EXPECT_EQ(of({}), 1) << "also the first time, when it prepares";
	EXPECT_EQ(of({}), 1);
	EXPECT_EQ(of({.timeout = 5s}), 1);
	EXPECT_EQ(of({.statements = pglock::statements::unprepared}), 1);
	EXPECT_EQ(server::round_trips(session,
								  [&] {
									  session.begin();
									  session.query("INSERT INTO work VALUES (1)");
									  session.commit();
								  }),
			  3)
		<< "else the test counts nothing";
}

TEST_F(CriticalSection, ATimeoutLeavesNothing)
{
	libpq_session other;
	pglock::options options{.timeout = 5ms};
	{
		pglock::guard holder(other.get(), "a");

		for (auto how : {pglock::statements::automatic, pglock::statements::automatic,
						 pglock::statements::unprepared})
		{
			options.statements = how;
			try
			{
				critical_section(session.get(), "a", options, insert);
				FAIL();
			}
			catch (const pglock::timeout_error &error)
			{
				EXPECT_EQ(error.sqlstate(), "55P03");
				EXPECT_TRUE(
					std::string(error.what()).starts_with("could not acquire lock \"a\" in time"))
					<< error.what();
			}
		}
		options.timeout = -1ms;
		EXPECT_THROW(critical_section(session.get(), "a", options, insert), pglock::timeout_error);
	}
	expect_nothing("after timeouts");
	EXPECT_EQ(run({insert}, options), "none") << "it is free now";
	EXPECT_EQ(notices, "");
}

TEST_F(CriticalSection, AWaitThatFailsLeavesNothing)
{
	libpq_session other;
	{
		pglock::guard holder(other.get(), "a");

		session.query("SET lock_timeout = '5ms'");
		EXPECT_EQ(run({insert}), "55P03");
		EXPECT_THROW(critical_section(session.get(), "a", {.timeout = 1h}, insert), pglock::error);
		session.query("RESET lock_timeout");
		session.query("SET statement_timeout = '5ms'");
		EXPECT_EQ(run({insert}), "57014");
		session.query("RESET statement_timeout");
	}
	expect_nothing("after waits");
}

TEST_F(CriticalSection, ADeadlockIsToldApart)
{
	libpq_session other;
	std::string outcome;

	session.query("SET deadlock_timeout = '10ms'");
	other.query("SET deadlock_timeout = '1h'");
	other.begin();
	other.query("SELECT pglock.acquire('a', scope => 'transaction')");
	pglock::guard held(session.get(), "b");
	std::thread waiter([&] {
		outcome = other.query("SELECT pglock.acquire('b', scope => 'transaction')");
		other.commit();
	});

	server::wait_for_waiters();
	EXPECT_THROW(critical_section(session.get(), "a", insert), pglock::deadlock_error);
	held.unlock();
	waiter.join();
	EXPECT_EQ(outcome, "t");
	expect_nothing("after a deadlock");
}

TEST_F(CriticalSection, AFailureAtAnyPlaceLeavesNothing)
{
	for (std::size_t place = 0; place < 4; place++)
	{
		std::vector<query> queries(4, insert);
		std::string number = "number " + std::to_string(place + 1);

		queries[place] = broken;
		try
		{
			critical_section(session.get(), "a", {}, queries);
			FAIL() << number;
		}
		catch (const pglock::error &error)
		{
			EXPECT_EQ(error.sqlstate(), "22012");
			EXPECT_EQ(error.what(), "division by zero\nSTATEMENT:  " + number);
		}
		expect_nothing(number);
	}
	EXPECT_EQ(run({insert, "INSERT INTO unique_work VALUES (1), (1)"}), "23505");
	expect_nothing("COMMIT");
	EXPECT_EQ(run({insert}), "none");
	EXPECT_EQ(notices, "");
}

TEST_F(CriticalSection, AFailureOfCommitIsNotTakenForATimeout)
{
	session.query("CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql "
				  "AS $$BEGIN RETURN 'no row'::int; END$$");
	session.query(
		"CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON work DEFERRABLE INITIALLY DEFERRED "
		"FOR EACH ROW EXECUTE FUNCTION fail()");
	EXPECT_EQ(run({insert}, {.timeout = 1h}), "22P02");
	expect_nothing("after it");
}

TEST_F(CriticalSection, WhatTheServerRefusesLeavesNothing)
{
	EXPECT_EQ(run({insert, "VACUUM work"}), "25001");
	EXPECT_EQ(run({insert, "SELECT 1; COMMIT"}), "42601");
	EXPECT_EQ(run({insert, "DO 'BEGIN COMMIT; END'"}), "2D000");
	EXPECT_EQ(run({insert, "not SQL"}), "42601");
	EXPECT_EQ(run({insert, {"SELECT $1"}}), "08P01") << "a parameter is missing";
	EXPECT_EQ(run({insert, {"SELECT 1", std::vector<pglock::parameter>(65536)}}), "")
		<< "libpq can't send it";
	expect_nothing("after refusals");
}

TEST_F(CriticalSection, WhatEndsTheTransactionInDisguiseIsSeen)
{
	pglock::detail::result_ptr(PQprepare(session.get(), "end", "COMMIT", 0, nullptr));
	pglock::detail::result_ptr(PQprepare(session.get(), "undo", "ROLLBACK", 0, nullptr));

	for (const char *name : {"end", "undo"})
		EXPECT_EQ(run({insert, query::prepared(name)}), "2D000") << name;
	expect_untouched("after them");
}

TEST_F(CriticalSection, CopyInDisguiseDoesNotHang)
{
	pglock::detail::result_ptr(PQprepare(session.get(), "out",
										 "COPY (SELECT generate_series(1, 9999)) TO STDOUT", 0,
										 nullptr));
	pglock::detail::result_ptr(PQprepare(session.get(), "in", "COPY work FROM STDIN", 0, nullptr));

	EXPECT_EQ(run({"SELECT 1", query::prepared("out"), "SELECT 2"}), "0A000");
	expect_untouched("after COPY TO STDOUT");
	EXPECT_THROW(critical_section(session.get(), "a", insert, query::prepared("out")),
				 pglock::result_lost);
	EXPECT_EQ(session.query("SELECT count(*) FROM work"), "1") << "that is committed";
	session.query("TRUNCATE work");
	EXPECT_EQ(run({insert, query::prepared("in"), insert}), "0A000");
	EXPECT_TRUE(pglock::connection_ref(session.get()).lost());
	PQreset(session.get());
	expect_nothing("after COPY FROM STDIN");
}

TEST_F(CriticalSection, ManyStatementsAndMuchData)
{
	std::string megabytes(4 << 20, 'x');
	std::vector<query> queries(10'000, query("SELECT $1 || '.'", {std::string(1000, 'y')}));

	for (int i = 0; i < 10; i++)
		queries.push_back({"SELECT $1 || '.'", {megabytes}});
	for (bool nonblocking : {false, true})
	{
		PQsetnonblocking(session.get(), nonblocking);

		auto results = critical_section(session.get(), "a", {}, queries);

		ASSERT_EQ(results.size(), queries.size());
		for (std::size_t i = 0; i < results.size(); i++)
			ASSERT_EQ(PQgetlength(results[i].get(), 0, 0), (i < 10'000 ? 1000 : 4 << 20) + 1);
	}
	queries[1] = broken;
	EXPECT_EQ(run(queries), "22012");
	EXPECT_EQ(PQisnonblocking(session.get()), 1);
	PQsetnonblocking(session.get(), 0);
	EXPECT_EQ(run({"SELECT 1"}), "none");
	EXPECT_EQ(PQisnonblocking(session.get()), 0);
	expect_nothing("after much data");
}

TEST_F(CriticalSection, ALongTextIsSentWhole)
{
	std::string text = "SELECT '" + std::string(8 << 20, 'x') + "'";
	auto results = critical_section(session.get(), "a", text);

	EXPECT_EQ(PQgetlength(results[0].get(), 0, 0), 8 << 20);
}

TEST_F(CriticalSection, NothingIsSentOverAConnectionThatIsNotIdle)
{
	auto attempt = [&] { return run({insert}); };

	session.begin();
	EXPECT_EQ(server::round_trips(session, [&] { EXPECT_EQ(attempt(), "25001"); }), 0);
	EXPECT_EQ(sqlstate_of([&] { session.query("SELECT 1/0"); }), "22012");
	EXPECT_EQ(server::round_trips(session, [&] { EXPECT_EQ(attempt(), "25001"); }), 0);
	session.rollback();

	ASSERT_EQ(PQsendQuery(session.get(), "SELECT 'mine'"), 1);
	EXPECT_EQ(attempt(), "");

	pglock::result mine(PQgetResult(session.get()));

	EXPECT_STREQ(PQgetvalue(mine.get(), 0, 0), "mine");
	EXPECT_EQ(PQgetResult(session.get()), nullptr);

	ASSERT_EQ(PQenterPipelineMode(session.get()), 1);
	EXPECT_EQ(server::round_trips(session, [&] { EXPECT_EQ(attempt(), ""); }), 0);
	EXPECT_EQ(PQpipelineStatus(session.get()), PQ_PIPELINE_ON);
	ASSERT_EQ(PQexitPipelineMode(session.get()), 1);
	expect_nothing("after all that");
}

TEST_F(CriticalSection, ALostConnectionIsAnError)
{
	auto attempt = [&](PGconn *connection) {
		EXPECT_THROW(critical_section(connection, "a", insert), pglock::connection_lost);
	};
	std::unique_ptr<PGconn, void (*)(PGconn *)> failed(PQconnectdb("host=/nonexistent"), PQfinish);

	attempt(failed.get());
	server::terminate(server::pid_of(session));
	attempt(session.get());
	attempt(session.get());
	PQreset(session.get());
	expect_nothing("after a reset");
}

TEST_F(CriticalSection, AConnectionThatIsLostMeanwhileIsAnError)
{
	libpq_session other;
	pglock::guard holder(other.get(), "a");
	std::string pid = server::pid_of(session);
	bool is_lost = false;

	PQsetnonblocking(session.get(), 1);
	std::thread waiter([&] {
		try
		{
			critical_section(session.get(), "a", insert);
		}
		catch (const pglock::outcome_unknown &)
		{
			is_lost = true;
		}
	});

	server::wait_for_waiters();
	server::terminate(pid);
	waiter.join();
	holder.unlock();
	EXPECT_TRUE(is_lost);
	PQreset(session.get());
	expect_nothing("after a reset");
}

TEST_F(CriticalSection, SharedOnesAreTogether)
{
	libpq_session other;
	pglock::guard reader(other.get(), "a", {.shared = true});

	session.query("SET lock_timeout = '10s'");
	EXPECT_EQ(run({insert}, {.shared = true}), "none");
	EXPECT_EQ(run({insert}, {.shared = true, .timeout = 0ms}), "none");
	EXPECT_EQ(run({insert}, {.timeout = 0ms}), "55P03");
}

TEST_F(CriticalSection, WhatCannotBeMeantIsRefused)
{
	PGconn *none = nullptr;

	EXPECT_THROW(critical_section(none, "a", insert), std::invalid_argument);
	EXPECT_THROW(critical_section(session.get(), "a", {.scope = pglock::scope::session}, insert),
				 std::invalid_argument);
	EXPECT_EQ(run({insert}, {.scope = pglock::scope::transaction}), "none");
	EXPECT_EQ(run({}), "none");
}

TEST_F(CriticalSection, AnObjectThatHoldsTheLockHereIsInTheWay)
{
	pglock::lock shared(session.get(), "a", {.shared = true});

	EXPECT_TRUE(shared.acquire());
	EXPECT_THROW(critical_section(session.get(), "a", insert), std::system_error);
	EXPECT_EQ(run({insert}, {.shared = true}), "none");
	EXPECT_TRUE(shared.release());

	pglock::guard exclusive(session.get(), "a");

	EXPECT_THROW(critical_section(session.get(), "a", {.shared = true}, insert), std::system_error);
	exclusive.unlock();
	expect_untouched("after it");
}

TEST_F(CriticalSection, IsPreparedIfAllowed)
{
	auto trips = [&](pglock::options options = {}) {
		return server::round_trips(session, [&] { EXPECT_EQ(run({}, options), "none"); });
	};
	auto prepared = [&] {
		return session.query("SELECT string_agg(substr(name, 8), ' ' ORDER BY name) "
							 "FROM pg_prepared_statements");
	};

	EXPECT_EQ(trips({.statements = pglock::statements::unprepared}), 1);
	EXPECT_EQ(prepared(), "");
	EXPECT_EQ(trips(), 1);
	EXPECT_EQ(prepared(), "begin_1 commit_1 enter_2");
	EXPECT_EQ(trips({.timeout = 5s}), 1);
	EXPECT_EQ(prepared(), "begin_1 commit_1 enter_2 enter_in_time_2");
	EXPECT_EQ(notices, "");
}

TEST_F(CriticalSection, PreparedStatementsThatAreGoneDoNoHarm)
{
	for (const char *lost : {"pglock_begin_1", "pglock_enter_2", "pglock_commit_1"})
	{
		libpq_session other;
		auto trips = [&] {
			return server::round_trips(other, [&] { critical_section(other.get(), "a", insert); });
		};

		session.query("TRUNCATE work");
		for (int i = 0; i < 3; i++)
		{
			EXPECT_EQ(trips(), 1) << lost;
			other.query(std::string("DEALLOCATE ") + lost);
			EXPECT_GT(trips(), 1) << lost << ": tried, and then done without";
		}
		EXPECT_EQ(trips(), 1) << lost << ": it has learned";
		EXPECT_EQ(session.query("SELECT count(*) FROM work"), "7") << lost;
	}
}

TEST_F(CriticalSection, DiscardAllInBetweenCostsNothing)
{
	for (const char *discard : {"DISCARD ALL", "DEALLOCATE ALL", "DISCARD ALL", "DISCARD ALL"})
	{
		EXPECT_EQ(server::round_trips(session, [&] { EXPECT_EQ(run({insert}), "none"); }), 1);
		EXPECT_EQ(session.query("SELECT count(*) FROM pg_prepared_statements"), "3");
		session.query(discard);
	}
}

TEST_F(CriticalSection, StatementsPreparedByAnotherProgramAreUsed)
{
	pglock::detail::result_ptr(PQprepare(session.get(), "pglock_enter_2",
										 "CALL pglock.lock($1::text, NULL, false, 'transaction')",
										 0, nullptr));
	EXPECT_EQ(run({insert}), "none") << "it is there, as a pooler may have it";
	EXPECT_EQ(server::round_trips(session, [&] { EXPECT_EQ(run({insert}), "none"); }), 1);
	EXPECT_EQ(session.query("SELECT generic_plans + custom_plans FROM pg_prepared_statements "
							"WHERE name = 'pglock_enter_2'"),
			  "1");
}

TEST_F(CriticalSection, PreparedStatementsOfOthersDoNoHarm)
{
	for (const char *foreign : {"begin_1 AS SELECT $1", "enter_2 (text, text) AS SELECT $1 || $2",
								"enter_2 AS SELECT 1", "commit_1 AS SELECT pg_backend_pid()"})
	{
		libpq_session other;

		other.query(std::string("PREPARE pglock_") + foreign);
		session.query("TRUNCATE work");
		for (int i = 0; i < 7; i++)
			critical_section(other.get(), "a", insert);
		EXPECT_EQ(session.query("SELECT count(*) FROM work"), "7") << foreign;
		EXPECT_EQ(PQtransactionStatus(other.get()), PQTRANS_IDLE) << foreign;
		EXPECT_EQ(server::round_trips(other, [&] { critical_section(other.get(), "a", insert); }),
				  1)
			<< "it has learned of " << foreign;
	}
}

TEST_F(CriticalSection, RunsPreparedStatementsOfTheUser)
{
	pglock::detail::result_ptr(
		PQprepare(session.get(), "add", "SELECT $1::int + $2::int", 0, nullptr));

	auto results = critical_section(session.get(), "a", query::prepared("add", {"40", "2"}));

	EXPECT_STREQ(PQgetvalue(results[0].get(), 0, 0), "42");
	EXPECT_EQ(run({insert, query::prepared("none")}), "26000") << "that is not our trouble";
	expect_nothing("after it");
}

TEST_F(CriticalSection, ReleasesFirstWhatAGuardCouldNot)
{
	{
		pglock::guard guard(session.get(), "b");

		ASSERT_EQ(PQsendQuery(session.get(), "SELECT 1"), 1);
	}
	while (PGresult *result = PQgetResult(session.get()))
		PQclear(result);
	EXPECT_FALSE(server::is_free("b"));
	EXPECT_EQ(run({insert}), "none");
	EXPECT_TRUE(server::is_free("b"));
}
