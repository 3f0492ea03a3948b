// Of all the programs that run this, one leads: the others wait until its lease has ended. Unlike a
// lock a lease belongs to no session, so this works behind a pooler that shares sessions between
// transactions, and over lost connections.
//
//   leader_lease NAME
//
// The leader writes its name and its fencing token into the table `leadership`. A keeper renews its
// lease, over a connection of its own, and requests stop before another may have it: for all that
// the leader does outside the database. What it writes there is safe by check(), for which a lease
// that has been taken over is an error.
#include <chrono>
#include <csignal>
#include <cstdio>
#include <memory>
#include <stop_token>
#include <string>
#include <thread>

#include <postgres_lock/keeper.hpp>
#include <postgres_lock/libpq.hpp>

namespace
{
volatile std::sig_atomic_t leaves = 0;

std::unique_ptr<PGconn, decltype(&PQfinish)>
open_session()
{
	return {PQconnectdb("connect_timeout=2"), PQfinish};
}

/// Until stop is requested, or the program is to end.
void
lead(const char *name, pglock::connection_ref connection, pglock::lease_guard &guard,
	 const std::stop_token &stop)
{
	std::string token = std::to_string(guard.token());
	const char *values[] = {name, token.c_str()};

	while (leaves == 0 && !stop.stop_requested())
	{
		connection.execute("BEGIN");
		guard.check();
		connection.execute("UPDATE leadership SET leader = $1, token = $2", values);
		connection.execute("COMMIT");
		std::this_thread::sleep_for(std::chrono::milliseconds(100));
	}
}
} // namespace

int
main(int argc, char **argv)
{
	if (argc != 2)
	{
		std::fprintf(stderr, "usage: leader_lease NAME\n");
		return 2;
	}

	try
	{
		auto connection = open_session();
		pglock::lease_guard guard(connection.get(), "leader",
								  {.ttl = std::chrono::seconds(5), .holder = argv[1]});
		pglock::keeper keeper(open_session);
		pglock::kept kept = keeper.keep(guard);

		std::signal(SIGTERM, [](int) { leaves = 1; });
		std::printf("%s leads\n", argv[1]);
		std::fflush(stdout);
		lead(argv[1], connection.get(), guard, kept.stop_token());
		std::printf("%s %s\n", argv[1], leaves != 0 ? "leaves" : "has to stop");
		return leaves != 0 ? 0 : 1;
	}
	catch (const pglock::error &error)
	{
		std::printf("%s: %s\n", argv[1], error.what());
		return 1;
	}
}
