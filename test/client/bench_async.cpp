// The coroutines of the C++ client, done so many TIMES, for who counts instructions.
//
//   bench_async TIMESx
#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>

#include <postgres_lock/asio.hpp>

namespace
{
asio::awaitable<void>
work(PGconn *connection, int times)
{
	auto executor = co_await asio::this_coro::executor;

	for (int left = times; left > 0; left--)
	{
		auto guard = co_await pglock::async_acquire(executor, connection, "order:42", {},
													asio::use_awaitable);

		co_await guard.async_unlock(asio::use_awaitable);
	}
}
} // namespace

int
main(int argc, char **argv)
try
{
	if (argc != 2)
		throw std::runtime_error("usage: bench_async TIMESx");

	std::unique_ptr<PGconn, decltype(&PQfinish)> connection(PQconnectdb(""), PQfinish);
	asio::io_context context;
	std::exception_ptr failure;

	asio::co_spawn(context, work(connection.get(), std::stoi(argv[1])),
				   [&](std::exception_ptr thrown) { failure = thrown; });
	context.run();
	if (failure)
		std::rethrow_exception(failure);
}
catch (const std::exception &failure)
{
	std::fprintf(stderr, "%s\n", failure.what());
	return 1;
}
