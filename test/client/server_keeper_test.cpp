// A keeper with a server: that answers, refuses, falls silent or goes, and a process that is
// paused.
#include <chrono>
#include <csignal>
#include <memory>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include <postgres_lock/keeper.hpp>

#include "handler.hpp"
#include "relay.hpp"
#include "server.hpp"
#include "stop.hpp"

using namespace std::chrono_literals;
using pglock::boot_clock;
using pglock::keeper;
using pglock::lease;
using pglock::lease_guard;
using server::libpq_session;

namespace
{
pglock::connection_ref
connect(const std::string &parameters = "")
{
	std::unique_ptr<PGconn, decltype(&PQfinish)> made(PQconnectdb(parameters.c_str()), PQfinish);

	if (PQstatus(made.get()) != CONNECTION_OK)
		throw std::runtime_error(PQerrorMessage(made.get()));
	return made;
}

class ServerKeeper : public testing::Test
{
  protected:
	libpq_session session;

	lease
	take(const std::string &key, std::chrono::milliseconds ttl)
	{
		return lease::acquire(session.get(), key, {.ttl = ttl}).value();
	}
};

void
expect_keeps_many(libpq_session &session, std::function<pglock::connection_ref()> connect)
{
	constexpr auto ttl = 1500ms;
	keeper keeper(std::move(connect));
	std::vector<lease_guard> guards;
	std::vector<pglock::kept> kept;

	for (int i = 0; i < 10; i++)
		kept.push_back(
			keeper.keep(guards.emplace_back(session.get(), i, pglock::lease_options{.ttl = ttl})));

	auto first = guards.front().lease().deadline();

	EXPECT_TRUE(soon([&] { return guards.front().lease().deadline() > first + ttl; }));
	for (int i = 0; i < 10; i++)
	{
		EXPECT_FALSE(guards[static_cast<std::size_t>(i)].expired());
		EXPECT_FALSE(kept[static_cast<std::size_t>(i)].stop_token().stop_requested());
	}
	EXPECT_EQ(session.query("SELECT count(*) FROM pglock.leases WHERE key ~ '^[0-9]$' "
							"AND expires_at > now()"),
			  "10");
	kept.clear();
	guards.clear();
	EXPECT_EQ(session.query("SELECT count(*) FROM pglock.leases WHERE key ~ '^[0-9]$'"), "0");
}
} // namespace

TEST_F(ServerKeeper, KeepsMany)
{
	expect_keeps_many(session, [] { return connect(); });
}

TEST_F(ServerKeeper, KeepsManyOverLibpqxx)
{
	expect_keeps_many(session, [] { return std::make_unique<pqxx::connection>(); });
}

TEST_F(ServerKeeper, RequestsStopWhenTheLeaseIsRevoked)
{
	keeper keeper([] { return connect(); }, {.margin = 0ms});
	lease held = take("revoked", 4s);
	pglock::kept kept = keeper.keep(held);
	auto deadline = held.deadline();

	EXPECT_EQ(session.query("SELECT pglock.revoke_lease('revoked')"), "1");
	EXPECT_LT(stop_of(kept.stop_token()), deadline);
	EXPECT_TRUE(held.expired());
}

TEST_F(ServerKeeper, TriesAServerThatFallsSilentOverAnotherConnection)
{
	relay proxy(0us);
	int connections = 0;
	keeper keeper(
		[&] { return connect(connections++ == 0 ? "host=" + proxy.folder() : std::string()); });
	lease held = take("silent", 3s);
	pglock::kept kept = keeper.keep(held);
	auto first = held.deadline();

	ASSERT_TRUE(soon([&] { return held.deadline() > first; }));
	proxy.freeze();

	auto second = held.deadline();

	EXPECT_TRUE(soon([&] { return held.deadline() > second; }));
	EXPECT_FALSE(kept.stop_token().stop_requested());
	held.release(session.get());
}

TEST_F(ServerKeeper, RequestsStopInTimeWhenTheNetworkIsDead)
{
	relay proxy(0us);
	keeper keeper([&] { return connect("connect_timeout=2 host=" + proxy.folder()); },
				  {.margin = 1s});
	lease held = take("dead network", 2s);
	pglock::kept kept = keeper.keep(held);
	auto first = held.deadline();

	ASSERT_TRUE(soon([&] { return held.deadline() > first; }));
	proxy.freeze();
	EXPECT_LT(stop_of(kept.stop_token()), held.deadline());
}

TEST_F(ServerKeeper, RequestsStopInTimeWhenTheServerIsGone)
{
	bool is_there = true;
	keeper keeper(
		[&] {
			return connect(std::exchange(is_there, false) ? "application_name=keeper"
														  : "host=/nonexistent");
		},
		{.margin = 1s});
	lease held = take("gone", 2s);
	pglock::kept kept = keeper.keep(held);

	server::wait_for("EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'keeper')");
	server::terminate(
		session.query("SELECT pid FROM pg_stat_activity WHERE application_name = 'keeper'"));
	EXPECT_LT(stop_of(kept.stop_token()), held.deadline());
}

TEST_F(ServerKeeper, EndsWhileARenewalHasNoAnswer)
{
	relay proxy(0us);
	lease held = take("ends", 2s);
	auto connection = std::make_shared<libpq_session>(("host=" + proxy.folder()).c_str());
	{
		keeper keeper([&] { return std::shared_ptr<PGconn>(connection, connection->get()); });
		pglock::kept kept = keeper.keep(held);

		proxy.freeze();
		ASSERT_TRUE(soon([&] { return boot_clock::now() > held.deadline() - 1200ms; }));
	}
	EXPECT_TRUE(held.release(session.get())) << "it is left to who has it";
}

TEST_F(ServerKeeper, AProcessThatWasPausedKnowsThatItsLeaseHasExpired)
{
	int from_child[2];
	int to_child[2];
	auto hear = [&](int end) {
		char said = 0;

		return read(end, &said, 1) == 1 ? said : '-';
	};

	ASSERT_EQ(pipe(from_child), 0);
	ASSERT_EQ(pipe(to_child), 0);

	pid_t child = fork();

	if (child == 0)
	{
		auto say = [&](bool as_expected) {
			if (write(from_child[1], as_expected ? "y" : "n", 1) != 1)
				_exit(1);
		};

		try
		{
			libpq_session own;
			lease held = lease::acquire(own.get(), "paused", {.ttl = 500ms}).value();
			keeper keeper([] { return connect(); });
			pglock::kept kept = keeper.keep(held);

			say(!held.expired());
			if (hear(to_child[0]) != 'c')
				_exit(1);
			say(held.expired());
			(void)stop_of(kept.stop_token());
			say(true);
		}
		catch (...)
		{
		}
		_exit(0);
	}
	close(from_child[1]);
	close(to_child[0]);
	EXPECT_EQ(hear(from_child[0]), 'y');
	kill(child, SIGSTOP);

	lease next = lease::acquire(session.get(), "paused").value();

	kill(child, SIGCONT);
	EXPECT_EQ(write(to_child[1], "c", 1), 1);
	EXPECT_EQ(hear(from_child[0]), 'y') << "it knows at once";
	EXPECT_EQ(hear(from_child[0]), 'y') << "and is told to stop";
	close(from_child[0]);
	close(to_child[1]);
	waitpid(child, nullptr, 0);
	EXPECT_TRUE(next.release(session.get()));
}
