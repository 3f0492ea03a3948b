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

using asio::use_awaitable;
using connection_ptr = std::unique_ptr<PGconn, decltype(&PQfinish)>;

namespace
{
/// The leader's work, in a thread and with a connection of its own.
void
lead(const std::string &name, const std::string &token, std::stop_source stop)
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
		{
			std::fprintf(stderr, "%s: somebody else leads, or the database is gone\n",
						 name.c_str());
			stop.request_stop();
		}
		std::this_thread::sleep_for(std::chrono::milliseconds(100));
	}
}

asio::awaitable<void>
be_elected(std::string name, PGconn *connection)
{
	auto executor = co_await asio::this_coro::executor;
	auto guard = co_await pglock::async_acquire(executor, connection, "leader", {}, use_awaitable);
	std::string token = std::to_string(co_await guard.async_token(use_awaitable));

	std::printf("%s leads\n", name.c_str());
	std::fflush(stdout);

	std::stop_source stop;
	std::jthread leader([&](std::stop_token ended) {
		std::stop_callback pass_on(ended, [&] { stop.request_stop(); });

		lead(name, token, stop);
	});

	// until the session is lost, or the leader gives up
	co_await guard.async_watch(stop, use_awaitable);
	throw std::runtime_error("has to stop");
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
		connection_ptr connection(PQconnectdb(""), PQfinish);
		asio::io_context context;
		asio::signal_set signals(context, SIGINT, SIGTERM);
		asio::cancellation_signal cancel;
		bool leaves = false;

		signals.async_wait([&](std::error_code error, int) {
			leaves = !error;
			if (leaves)
				cancel.emit(asio::cancellation_type::terminal);
		});
		asio::co_spawn(context, be_elected(argv[1], connection.get()),
					   asio::bind_cancellation_slot(cancel.slot(), [&](std::exception_ptr failure) {
						   signals.cancel();
						   if (!leaves)
							   std::rethrow_exception(failure);
					   }));
		context.run();
		std::printf("%s leaves\n", argv[1]);
	}
	catch (const std::exception &error)
	{
		std::printf("%s: %s\n", argv[1], error.what());
		return 1;
	}
}
