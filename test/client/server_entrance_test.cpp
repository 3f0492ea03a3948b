// What lets a critical section in besides one lock: all of several, or a lease that is held still.
#include <string>
#include <thread>
#include <vector>

#include <postgres_lock/critical_section.hpp>

#include "server.hpp"

using namespace std::chrono_literals;
using pglock::critical_section;
using pglock::lease;
using pglock::query;
using server::libpq_session;

namespace
{
class Entrance : public testing::Test
{
  protected:
	Entrance()
	{
		session.query("DROP TABLE IF EXISTS work");
		session.query("CREATE TABLE work (id int)");
		PQsetNoticeProcessor(
			session.get(),
			[](void *to, const char *text) { static_cast<std::string *>(to)->append(text); },
			&notices);
	}

	/// Nothing has been done, and the connection can be used.
	void
	expect_nothing(const std::string &when)
	{
		EXPECT_EQ(PQtransactionStatus(session.get()), PQTRANS_IDLE) << when;
		EXPECT_EQ(session.query("SELECT count(*) FROM work"), "0") << when;
		EXPECT_EQ(session.query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), "0")
			<< when;
	}

	/// That the check of the lease fails, and that the lease knows.
	void
	expect_lost(const lease &held)
	{
		try
		{
			critical_section(session.get(), held, insert);
			FAIL();
		}
		catch (const pglock::lease_lost &lost)
		{
			EXPECT_EQ(lost.sqlstate(), "55000");
			EXPECT_TRUE(std::string(lost.what()).starts_with("lease \"job\" is not held"))
				<< lost.what();
		}
		EXPECT_TRUE(held.expired());
		expect_nothing("after a lease that is lost");
	}

	const query insert{"INSERT INTO work VALUES (1)"};
	const query keys_held{
		"SELECT string_agg(key || ' ' || mode || ' ' || scope, ', ' ORDER BY key) "
		"FROM pglock.locks WHERE granted"};
	libpq_session session;
	libpq_session other;
	std::string notices;
};
} // namespace

TEST_F(Entrance, TakesAllOfSeveralLocks)
{
	std::vector<std::string> range{"b", "a", "b"};
	std::string both = "a exclusive transaction, b exclusive transaction";
	auto held = [](const std::vector<pglock::result> &results) {
		return std::string(PQgetvalue(results.back().get(), 0, 0));
	};

	EXPECT_EQ(held(critical_section(session.get(), {"a", "b"}, keys_held)), both);
	EXPECT_EQ(held(critical_section(session.get(), range, keys_held)), both);
	EXPECT_EQ(held(critical_section(session.get(), range, {.timeout = 5s}, insert, keys_held)),
			  both);
	EXPECT_EQ(held(critical_section(session.get(), {1, "\"\\{,"}, {.shared = true}, keys_held)),
			  "\"\\{, shared transaction, 1 shared transaction");
	EXPECT_EQ(held(critical_section(session.get(), {"a", "a"}, keys_held)),
			  "a exclusive transaction");
	EXPECT_THROW(critical_section(session.get(), std::vector<pglock::key>(), insert),
				 std::invalid_argument);
	EXPECT_EQ(notices, "");
	EXPECT_EQ(session.query("SELECT count(*) FROM work"), "1");
}

TEST_F(Entrance, SeveralLocksTakeOneRoundTrip)
{
	for (auto how : {pglock::statements::automatic, pglock::statements::automatic,
					 pglock::statements::unprepared})
		EXPECT_EQ(server::round_trips(session,
									  [&] {
										  critical_section(session.get(), {"a", "b"},
														   {.timeout = 5s, .statements = how},
														   insert, keys_held);
									  }),
				  1);
}

TEST_F(Entrance, OneOfSeveralThatIsNotToBeHadLeavesNothing)
{
	{
		pglock::guard holder(other.get(), "b");

		for (auto timeout : {0ms, 5ms})
			for (auto how : {pglock::statements::automatic, pglock::statements::automatic,
							 pglock::statements::unprepared})
				try
				{
					critical_section(session.get(), {"c", "b", "a"},
									 {.timeout = timeout, .statements = how}, insert);
					FAIL();
				}
				catch (const pglock::timeout_error &error)
				{
					EXPECT_EQ(error.sqlstate(), "55P03");
					EXPECT_STREQ(error.what(),
								 "could not acquire locks \"a\", \"b\", \"c\" in time");
				}
		session.query("SET lock_timeout = '5ms'");
		try
		{
			critical_section(session.get(), {"a", "b"}, insert);
			FAIL();
		}
		catch (const pglock::error &error)
		{
			EXPECT_EQ(error.sqlstate(), "55P03");
			EXPECT_EQ(dynamic_cast<const pglock::timeout_error *>(&error), nullptr);
		}
	}
	expect_nothing("after timeouts");
	EXPECT_EQ(notices, "");
}

TEST_F(Entrance, AnObjectThatHoldsOneOfThemHereIsInTheWay)
{
	pglock::guard guard(session.get(), "b");

	EXPECT_THROW(critical_section(session.get(), {"a", "b"}, insert), std::system_error);
	guard.unlock();
	expect_nothing("after it");
}

TEST_F(Entrance, SeveralLocksSeeWhatTheLastHolderWrote)
{
	std::string seen;

	other.begin();
	other.query("SELECT pglock.acquire('b', scope => 'transaction')");
	other.query("INSERT INTO work VALUES (7)");

	std::thread waiter([&] {
		auto results = critical_section(session.get(), {"a", "b"}, "SELECT max(id) FROM work");

		seen = PQgetvalue(results[0].get(), 0, 0);
	});

	server::wait_for_waiters();
	other.commit();
	waiter.join();
	EXPECT_EQ(seen, "7");
}

TEST_F(Entrance, ALeaseLetsInWhileItIsHeld)
{
	pglock::lease_guard guard(other.get(), "job");
	lease of_other("job", guard.token());

	for (const lease &held : {guard.lease(), of_other})
	{
		std::vector<query> queries{insert, "SELECT pglock.holds_lease('job', 0)"};

		EXPECT_EQ(critical_section(session.get(), held, queries).size(), 2u);
	}
	EXPECT_EQ(server::round_trips(
				  session, [&] { critical_section(session.get(), guard.lease(), insert, insert); }),
			  1);
	EXPECT_EQ(session.query("SELECT count(*) FROM work"), "4");
	EXPECT_FALSE(guard.expired());
	EXPECT_EQ(notices, "");
	guard.release();
	session.query("TRUNCATE work");
	expect_lost(guard.lease());
	expect_lost(of_other);
}

TEST_F(Entrance, ALeaseThatHasBeenTakenOverLetsNobodyIn)
{
	lease held = lease::acquire(session.get(), "job", {.ttl = 1ms}).value();
	lease next = lease::acquire(other.get(), "job").value();

	expect_lost(held);
	critical_section(session.get(), next, insert);
	EXPECT_EQ(session.query("SELECT count(*) FROM work"), "1");
	next.release(session.get());
}

TEST_F(Entrance, AnErrorOfAStatementDoesNotLoseTheLease)
{
	pglock::lease_guard guard(other.get(), "job", {.statements = pglock::statements::unprepared});

	try
	{
		critical_section(session.get(), guard.lease(), insert,
						 "DO $$BEGIN RAISE 'x' USING ERRCODE = '55000'; END$$");
		FAIL();
	}
	catch (const pglock::lease_lost &)
	{
		FAIL() << "it is not the lease's";
	}
	catch (const pglock::error &error)
	{
		EXPECT_STREQ(error.what(), "x\nCONTEXT:  PL/pgSQL function inline_code_block line 1 at "
								   "RAISE\nSTATEMENT:  number 2");
	}
	EXPECT_FALSE(guard.expired());
	EXPECT_EQ(session.query("SELECT count(*) FROM pg_prepared_statements"), "0");
	EXPECT_EQ(session.query("SELECT count(*) FROM work"), "0");
}

TEST_F(Entrance, NobodyTakesALeaseOverBeforeCommit)
{
	lease held = lease::acquire(session.get(), "job", {.ttl = 1ms}).value();
	std::thread writer;
	{
		pglock::guard gate(other.get(), "gate");

		writer = std::thread([&] {
			critical_section(session.get(), held,
							 "SELECT pglock.acquire('gate', scope => 'transaction')", insert);
		});
		server::wait_for_waiters();
		EXPECT_FALSE(lease::acquire(other.get(), "job", {.timeout = 0s}))
			<< "though it has expired";
	}
	writer.join();

	lease next = lease::acquire(other.get(), "job").value();

	EXPECT_EQ(session.query("SELECT count(*) FROM work"), "1");
	next.release(other.get());
}
