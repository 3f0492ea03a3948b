// A server of coroutines in one thread: whoever connects sends names of accounts, a line each, and
// each account is worked on by one at a time, however many servers there are.
//
//   coroutine_server SOCKET CONNECTIONS
//
// listens on a Unix socket, and serves as many clients at once as it has connections to the
// database. While one waits for a lock, or for its client, the thread serves the others.
#include <chrono>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <postgres_lock/asio.hpp>
using namespace std::chrono_literals;

using asio::awaitable;
using asio::use_awaitable;
using stream = asio::local::stream_protocol;
using connection_ptr = std::unique_ptr<PGconn, decltype(&PQfinish)>;

namespace
{
awaitable<std::string>
work_on(PGconn *connection, std::string account)
{
	try
	{
		co_await pglock::with_lock(connection, "account:" + account, {.timeout = 2s},
								   []() -> awaitable<void> {
									   asio::steady_timer work(co_await asio::this_coro::executor,
															   10ms);

									   co_await work.async_wait(use_awaitable);
								   });
		co_return "done\n";
	}
	catch (const pglock::timeout_error &)
	{
		co_return "busy\n";
	}
}

awaitable<void>
serve(stream::socket client, PGconn *connection)
{
	std::string received;

	for (;;)
	{
		std::size_t length =
			co_await asio::async_read_until(client, asio::dynamic_buffer(received, 1000), '\n',
											use_awaitable);
		std::string answer = co_await work_on(connection, received.substr(0, length - 1));

		received.erase(0, length);
		co_await asio::async_write(client, asio::buffer(answer), use_awaitable);
	}
}

/// Serves one client after another over one connection to the database.
awaitable<void>
accept(stream::acceptor &acceptor, PGconn *connection)
{
	for (;;)
	{
		auto client = co_await acceptor.async_accept(use_awaitable);

		try
		{
			co_await serve(std::move(client), connection);
		}
		catch (const std::exception &) // it has gone, or has sent what is no name of an account
		{
		}
	}
}
} // namespace

int
main(int argc, char **argv)
{
	if (argc != 3)
	{
		std::fprintf(stderr, "usage: coroutine_server SOCKET CONNECTIONS\n");
		return 2;
	}
	try
	{
		std::vector<connection_ptr> connections;
		asio::io_context context(1);
		asio::signal_set signals(context, SIGINT, SIGTERM);
		stream::acceptor acceptor(context, stream::endpoint(argv[1]));

		for (int i = 0; i < std::stoi(argv[2]); i++)
		{
			connections.emplace_back(PQconnectdb(""), PQfinish);
			asio::co_spawn(context, accept(acceptor, connections.back().get()),
						   [](std::exception_ptr failure) {
							   if (failure)
								   std::rethrow_exception(failure);
						   });
		}
		signals.async_wait([&](std::error_code, int) { context.stop(); });
		context.run();
	}
	catch (const std::exception &error)
	{
		std::fprintf(stderr, "coroutine_server: %s\n", error.what());
		return 1;
	}
}
