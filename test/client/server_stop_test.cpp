// Waits that end because stop was requested.
#include <array>
#include <atomic>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

#include <postgres_lock/cluster.hpp>
#include <postgres_lock/critical_section.hpp>
#include <postgres_lock/lease.hpp>

#include "relay.hpp"
#include "server.hpp"

using namespace std::chrono_literals;

namespace
{
template <typename Way> class Stop : public server::Behaviour<Way>
{
};

// transaction objects of libpqxx do not survive an error
using ways = testing::Types<server::way<server::libpq_session, pglock::scope::session>,
							server::way<server::libpq_session, pglock::scope::transaction>,
							server::way<server::pqxx_session, pglock::scope::session>>;
TYPED_TEST_SUITE(Stop, ways, server::way_names);

/// Requests stop once somebody waits.
std::thread
stop_waiter(std::stop_source &stop)
{
	return std::thread([&stop] {
		server::wait_for_waiters();
		stop.request_stop();
	});
}
} // namespace

TYPED_TEST(Stop, EndsAWaitAndLeavesTheConnectionUsable)
{
	typename TestFixture::place holding;
	typename TestFixture::place waiting;
	pglock::guard holder(holding.ref(), "busy", this->with());
	std::stop_source stop;
	pglock::lock lock(waiting.ref(), "busy", this->with({.stop = stop.get_token()}));
	std::thread stopping = stop_waiter(stop);

	waiting.query("CREATE TEMP TABLE kept ()");
	EXPECT_THROW((void)lock.acquire(), pglock::stopped_error);
	stopping.join();
	EXPECT_FALSE(lock.locked());
	EXPECT_EQ(waiting.query("SELECT count(*) FROM kept"), "0") << "the transaction goes on";
	EXPECT_EQ(waiting.query("SELECT pglock.held('busy')"), "f");
}

TYPED_TEST(Stop, RequestedBeforeTheWaitEndsItAtOnce)
{
	typename TestFixture::place holding;
	typename TestFixture::place waiting;
	pglock::guard holder(holding.ref(), "busy", this->with());
	std::stop_source stop;

	stop.request_stop();

	pglock::options stopped = this->with({.stop = stop.get_token()});

	EXPECT_THROW(pglock::guard guard(waiting.ref(), "busy", stopped), pglock::stopped_error);
	EXPECT_THROW(pglock::slot_guard guard(waiting.ref(), "slots", 1, stopped),
				 pglock::stopped_error);
	EXPECT_EQ(waiting.query("SELECT count(*) FROM pglock.locks WHERE pid = pg_backend_pid()"), "0");
}

TYPED_TEST(Stop, IsOfNoConsequenceIfItIsNotRequested)
{
	typename TestFixture::place holding;
	typename TestFixture::place waiting;
	pglock::guard holder(holding.ref(), "busy", this->with());
	std::stop_source stop;
	pglock::guard free(waiting.ref(), "free", this->with({.stop = stop.get_token()}));

	pglock::options hurried = this->with({.timeout = 50ms, .stop = stop.get_token()});

	EXPECT_TRUE(free.locked());
	EXPECT_THROW(pglock::guard guard(waiting.ref(), "busy", hurried), pglock::timeout_error);
}

// the grant and the request race; who was stopped holds nothing, and a late request to cancel does
// not meet the next command
TYPED_TEST(Stop, RacesWithTheGrant)
{
	typename TestFixture::place holding;
	typename TestFixture::place waiting;
	int stopped = 0;

	for (int round = 0; round < 50; round++)
	{
		std::stop_source stop;
		pglock::lock lock(waiting.ref(), "raced", this->with({.stop = stop.get_token()}));
		pglock::lock holder(holding.ref(), "raced", this->with());

		ASSERT_TRUE(holder.acquire());

		std::thread other([&] {
			server::wait_for_waiters();
			std::thread requesting([&] { stop.request_stop(); });

			holder.release();
			holding.finish();
			requesting.join();
		});

		try
		{
			EXPECT_TRUE(lock.acquire());
			lock.release();
			waiting.finish();
		}
		catch (const pglock::stopped_error &)
		{
			stopped++;
			EXPECT_EQ(waiting.query("SELECT pglock.held('raced')"), "f");
		}
		other.join();
		waiting.finish();
	}
	this->RecordProperty("stopped", stopped);
	EXPECT_EQ(server::is_free("raced"), true);
}

// a lease is taken at no scope, but in a block or outside
TYPED_TEST(Stop, EndsTheWaitForALease)
{
	server::libpq_session holding;
	typename TestFixture::place waiting;
	pglock::lease holder = pglock::lease::acquire(holding.ref(), "busy").value();
	std::stop_source stop;
	const pglock::lease_options stopped{.stop = stop.get_token()};
	std::thread stopping([&stop] {
		server::wait_for("EXISTS (SELECT FROM pglock.leases WHERE key = 'busy' AND waiters = 1)");
		stop.request_stop();
	});

	waiting.query("CREATE TEMP TABLE kept ()");
	EXPECT_THROW((void)pglock::lease::acquire(waiting.ref(), "busy", stopped),
				 pglock::stopped_error);
	stopping.join();
	EXPECT_EQ(waiting.query("SELECT count(*) FROM kept"), "0") << "the transaction goes on";
	EXPECT_THROW(pglock::lease_guard guard(waiting.ref(), "free", stopped), pglock::stopped_error)
		<< "requested before, it ends the wait at once";
	EXPECT_TRUE(holder.release(holding.ref()));
	EXPECT_TRUE(
		pglock::lease::acquire(holding.ref(), "busy", {.timeout = 0s})->release(holding.ref()));
}

TEST(StopLibpq, EndsTheWaitOfACriticalSection)
{
	server::libpq_session session;
	server::libpq_session other;
	std::stop_source stop;

	session.query("CREATE TEMP TABLE work (id int)");
	{
		pglock::guard holder(other.get(), "b");
		std::thread stopping = stop_waiter(stop);

		EXPECT_THROW(pglock::critical_section(session.get(), {"a", "b"}, {.stop = stop.get_token()},
											  "INSERT INTO work VALUES (1)"),
					 pglock::stopped_error);
		stopping.join();
	}
	EXPECT_EQ(session.query("SELECT count(*) FROM work"), "0") << "the connection can be used";
	EXPECT_EQ(server::round_trips(session,
								  [&] {
									  EXPECT_THROW(
										  pglock::critical_section(session.get(), "a",
																   {.stop = stop.get_token()},
																   "INSERT INTO work VALUES (1)"),
										  pglock::stopped_error);
								  }),
			  0)
		<< "it was requested before";
}

TEST(StopLibpq, RacesWithACriticalSection)
{
	server::libpq_session session;
	server::libpq_session other;
	long done = 0;

	session.query("CREATE TEMP TABLE work (id int)");
	for (int round = 0; round < 50; round++)
	{
		std::stop_source stop;
		pglock::lock holder(other.get(), "raced");

		ASSERT_TRUE(holder.acquire());

		std::thread racing([&] {
			server::wait_for_waiters();
			std::thread requesting([&] { stop.request_stop(); });

			holder.release();
			requesting.join();
		});

		try
		{
			pglock::critical_section(session.get(), "raced", {.stop = stop.get_token()},
									 "INSERT INTO work VALUES (1)");
			done++;
		}
		catch (const pglock::stopped_error &)
		{
		}
		racing.join();
		ASSERT_EQ(session.query("SELECT count(*) FROM work"), std::to_string(done));
	}
}

TEST(StopLibpq, GivesUpAServerThatDoesNotAnswer)
{
	relay proxy{0us};
	server::libpq_session holding;
	server::libpq_session waiting(("host=" + proxy.folder()).c_str());
	pglock::guard holder(holding.get(), "busy");
	std::stop_source stop;
	pglock::lock lock(waiting.get(), "busy", {.grace = 300ms, .stop = stop.get_token()});
	std::thread stopping([&] {
		server::wait_for_waiters();
		proxy.freeze();
		stop.request_stop();
	});

	EXPECT_THROW((void)lock.acquire(), pglock::connection_lost);
	stopping.join();
	EXPECT_TRUE(lock.lost());
	waiting.close();
}

TEST(StopLibpq, OfALostConnectionSaysThatItIsLost)
{
	server::libpq_session session;
	pglock::cluster servers{session.ref()};
	std::stop_source stop;
	pglock::lock lock(session.get(), "a", {.stop = stop.get_token()});

	server::terminate(server::pid_of(session));
	EXPECT_THROW(session.query("SELECT 1"), pglock::connection_lost);
	EXPECT_THROW((void)lock.acquire(), pglock::connection_lost);
	EXPECT_THROW(pglock::lease_guard guard(session.get(), "a", {.stop = stop.get_token()}),
				 pglock::connection_lost);
	EXPECT_THROW(pglock::cluster_guard guard(servers, "a", {.stop = stop.get_token()}),
				 pglock::server_lost);
}

TEST(StopLibpq, ClosesNoFileThatHasTheNumberOfItsOwn)
{
	relay proxy{0us};
	server::libpq_session holding;
	server::libpq_session waiting(("host=" + proxy.folder()).c_str());
	std::string pid = server::pid_of(waiting);
	pglock::guard holder(holding.get(), "busy");
	std::stop_source stop;
	pglock::lock lock(waiting.get(), "busy", {.grace = 500ms, .stop = stop.get_token()});
	int number = PQsocket(waiting.get());
	std::array<int, 2> strangers{-1, -1};
	std::thread stopping([&] {
		server::wait_for_waiters();
		stop.request_stop(); // the relay does not answer the request to cancel
		server::terminate(pid);
		EXPECT_TRUE(soon([&] {
			(void)socketpair(AF_UNIX, SOCK_STREAM, 0, strangers.data());
			if (strangers[0] == number || strangers[1] == number)
				return true;
			close(strangers[0]);
			close(strangers[1]);
			return false;
		})) << "libpq has closed its own";
	});

	EXPECT_THROW((void)lock.acquire(), pglock::connection_lost);
	stopping.join();
	for (int each : strangers)
		EXPECT_EQ(send(each, "x", 1, MSG_NOSIGNAL), 1);
	for (int each : strangers)
		close(each);
	waiting.close();
}

TEST(StopLibpqxx, IsRefusedForATransactionObject)
{
	pqxx::connection connection;
	pqxx::work work(connection);
	std::stop_source stop;

	EXPECT_THROW(pglock::lock(work, "a", {.stop = stop.get_token()}), std::invalid_argument);
}
