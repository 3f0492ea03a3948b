// A server, or a proxy before it, that takes what is sent and never answers.
#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include <postgres_lock/critical_section.hpp>

#include "handler.hpp"
#include "relay.hpp"
#include "server.hpp"

using namespace std::chrono_literals;
using server::libpq_session;

namespace
{
const pglock::options in_time{.timeout = 20ms, .grace = 80ms};

class Silence : public testing::Test
{
  protected:
	relay proxy{0us};
	std::string parameters = "host=" + proxy.folder();
	failures heard;

	/// The work ends in time, and says that the connection is lost.
	static void
	expect_lost(const char *title, const std::function<void()> &work,
				std::chrono::milliseconds limit = 100ms)
	{
		auto start = std::chrono::steady_clock::now();

		EXPECT_THROW(work(), pglock::connection_lost) << title;
		EXPECT_GE(std::chrono::steady_clock::now() - start, limit) << title;
	}
};

/// Each test has its own connection: one ends it.
class SilentLibpq : public Silence
{
  protected:
	libpq_session session{parameters.c_str()};

	void
	expect_closed()
	{
		EXPECT_EQ(PQstatus(session.get()), CONNECTION_BAD);
		EXPECT_TRUE(pglock::connection_ref(session.get()).lost());
		EXPECT_EQ(PQisnonblocking(session.get()), 0);
		EXPECT_THROW(pglock::guard(session.get(), "b").unlock(), pglock::connection_lost);
	}
};
} // namespace

TEST_F(SilentLibpq, AGuardsTimeoutEnds)
{
	proxy.freeze();
	expect_lost("guard", [&] { pglock::guard guard(session.get(), "a", in_time); });
	expect_closed();
}

TEST_F(SilentLibpq, ATryEnds)
{
	pglock::mutex mutex(session.get(), "a", {.grace = 100ms});

	proxy.freeze();
	expect_lost("try_lock", [&] { (void)mutex.try_lock(); });
	expect_closed();
}

TEST_F(SilentLibpq, AWaitForADurationEnds)
{
	pglock::shared_mutex mutex(session.get(), "a", {.grace = 80ms});

	proxy.freeze();
	expect_lost("try_lock_shared_for", [&] { (void)mutex.try_lock_shared_for(20ms); });
	expect_closed();
}

TEST_F(SilentLibpq, ATokenEnds)
{
	pglock::lock lock(session.get(), "a", in_time);

	EXPECT_TRUE(lock.acquire());
	proxy.freeze();
	expect_lost(
		"token", [&] { (void)lock.token(); }, 80ms);
	EXPECT_FALSE(lock.locked());
	expect_closed();
}

TEST_F(SilentLibpq, ARollbackEnds)
{
	session.begin();
	try
	{
		pglock::guard guard(session.get(), "a", in_time);

		proxy.freeze();
		throw 1;
	}
	catch (int)
	{
	}
	EXPECT_EQ(heard.all().size(), 1u);
	expect_closed();
}

TEST_F(SilentLibpq, ACriticalSectionIsUnknown)
{
	// more than what a socket takes
	pglock::query much("SELECT $1", {std::string(16 << 20, 'x')});

	proxy.freeze();
	EXPECT_THROW(pglock::critical_section(session.get(), "a", in_time, much),
				 pglock::outcome_unknown);
	EXPECT_EQ(PQstatus(session.get()), CONNECTION_BAD);
	EXPECT_THROW(pglock::guard(session.get(), "b").unlock(), pglock::connection_lost);
}

TEST_F(SilentLibpq, AServerThatAnswersIsWaitedFor)
{
	libpq_session other;
	std::optional<pglock::guard> holder(std::in_place, other.get(), "a");
	std::string long_key(1 << 20, 'k');

	for (bool nonblocking : {false, true})
	{
		PQsetnonblocking(session.get(), nonblocking);
		EXPECT_THROW(pglock::guard(session.get(), "a", {.timeout = 20ms, .grace = 1min}).unlock(),
					 pglock::timeout_error);
		EXPECT_TRUE(pglock::guard(session.get(), long_key, {.timeout = 1min}).locked());
		EXPECT_THROW(pglock::critical_section(session.get(), "a", {.timeout = 1ms}, "SELECT 1"),
					 pglock::timeout_error);
		EXPECT_EQ(PQisnonblocking(session.get()), nonblocking);
	}
	holder.reset();

	auto results =
		pglock::critical_section(session.get(), "a", {.timeout = 0s, .grace = 10s},
								 "SELECT pg_sleep(0.2)", "SELECT repeat('x', 10000000)",
								 pglock::query("SELECT $1", {std::string(10'000'000, 'y')}));

	EXPECT_EQ(PQgetlength(results[1].get(), 0, 0), 10'000'000);
	EXPECT_EQ(PQgetlength(results[2].get(), 0, 0), 10'000'000);
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(Silence, ItsReleaseEnds)
{
	libpq_session session(parameters.c_str());
	{
		pglock::guard guard(session.get(), "a", in_time);

		proxy.freeze();
	}
	EXPECT_EQ(heard.all(),
			  std::vector<std::string>{"a: the server has not answered in time, so the "
									   "connection has been closed"});
}

TEST_F(Silence, OverLibpqxxTheSame)
{
	pqxx::connection connection(parameters);
	{
		pglock::guard guard(connection, "a", {.timeout = 1min});
		pqxx::work work(connection);
		pglock::guard in_work(work, "b", {.timeout = 1min});

		work.commit();
	}
	EXPECT_TRUE(heard.all().empty());
	proxy.freeze();
	expect_lost("guard", [&] { pglock::guard guard(connection, "a", in_time); });
	EXPECT_TRUE(pglock::connection_ref(connection).lost());
}
