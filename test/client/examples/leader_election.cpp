// Of all the programs that run this, one leads: the others wait until it ends, or loses its
// session.
//
//   leader_election NAME
//
// The leader writes its name and its fencing token into the table `leadership`. A leader that has
// lost its session is told to stop within a second. Should it write once more before it hears of
// that, its token is too old, and nothing is written.
#include <chrono>
#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>

#include <postgres_lock/asio.hpp>

using connection_ptr = std::unique_ptr<PGconn, decltype(&PQfinish)>;

namespace
{
/// The leader's work, which has a connection of its own.
void
lead(const std::string &name, const std::string &token, std::stop_token stop)
{
	connection_ptr connection(PQconnectdb(""), PQfinish);
	const char *values[] = {name.c_str(), token.c_str()};

	while (!stop.stop_requested())
	{
		std::unique_ptr<PGresult, decltype(&PQclear)> result(
			PQexecParams(connection.get(),
						 "UPDATE leadership SET leader = $1, token = $2 WHERE token <= $2::bigint",
						 2, nullptr, values, nullptr, nullptr, 0),
			PQclear);

		if (std::string(PQcmdTuples(result.get())) != "1")
			throw std::runtime_error("somebody else leads, or the database is gone");
		std::this_thread::sleep_for(std::chrono::milliseconds(100));
	}
}

void
be_elected(const std::string &name)
{
	connection_ptr connection(PQconnectdb(""), PQfinish);
	asio::io_context context;
	asio::signal_set signals(context, SIGINT, SIGTERM);
	std::stop_source lost;

	pglock::guard guard(connection.get(), "leader");
	std::string token = std::to_string(guard.token());

	std::printf("%s leads\n", name.c_str());
	std::fflush(stdout);

	std::exception_ptr failure;
	std::jthread leader([&](std::stop_token stop) {
		try
		{
			lead(name, token, stop);
		}
		catch (...)
		{
			failure = std::current_exception();
			context.stop();
		}
	});

	// until the session is lost, the leader fails, or somebody ends the program
	pglock::async_watch(context.get_executor(), connection.get(), lost,
						[&](std::exception_ptr) { context.stop(); });
	signals.async_wait([&](std::error_code, int) { context.stop(); });
	context.run();
	leader.request_stop();
	leader.join();
	if (lost.stop_requested())
		throw std::runtime_error("the session was lost");
	if (failure)
		std::rethrow_exception(failure);
}
} // namespace

int
main(int argc, char **argv)
{
	if (argc != 2)
	{
		std::fprintf(stderr, "usage: leader_election NAME\n");
		return 2;
	}
	try
	{
		be_elected(argv[1]);
		std::printf("%s leaves\n", argv[1]);
	}
	catch (const std::exception &error)
	{
		std::printf("%s: %s\n", argv[1], error.what());
		return 1;
	}
}
