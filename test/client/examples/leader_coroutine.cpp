// Of all the programs that run this, one leads, by a lease, and all its work is done in coroutines
// of one thread.
//
//   leader_coroutine NAME
//
// with_lease() renews the lease while the leader works, and cancels the work before another may
// lead. What the leader writes into the table `leadership` is safe by async_check(), for which a
// lease that has been taken over is an error. Signals end the wait or the work as well.
#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>

#include <postgres_lock/asio_lease.hpp>

using asio::use_awaitable;
using connection_ptr = std::unique_ptr<PGconn, decltype(&PQfinish)>;

namespace
{
/// Until it is cancelled.
asio::awaitable<void>
lead(const char *name, PGconn *connection, pglock::async_lease_guard &guard)
{
	asio::steady_timer timer(co_await asio::this_coro::executor);
	pglock::connection_ref sql = connection;
	std::string token = std::to_string(guard.token());
	const char *values[] = {name, token.c_str()};

	std::printf("%s leads\n", name);
	std::fflush(stdout);
	for (;;)
	{
		// a program that must not wait for these either sends them by libpq's asynchronous
		// functions
		sql.execute("BEGIN");
		co_await guard.async_check();
		sql.execute("UPDATE leadership SET leader = $1, token = $2", values);
		sql.execute("COMMIT");
		timer.expires_after(std::chrono::milliseconds(100));
		co_await timer.async_wait(use_awaitable);
	}
}

asio::awaitable<void>
be_elected(const char *name, PGconn *connection)
{
	co_await pglock::with_lease(connection, "leader",
								{.ttl = std::chrono::seconds(5), .holder = name},
								[&](pglock::async_lease_guard &guard) -> asio::awaitable<void> {
									return lead(name, connection, guard);
								});
}
} // namespace

int
main(int argc, char **argv)
{
	if (argc != 2)
	{
		std::fprintf(stderr, "usage: leader_coroutine NAME\n");
		return 2;
	}
	try
	{
		connection_ptr connection(PQconnectdb("connect_timeout=2"), PQfinish);
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
