// async.hpp: what the tests of the asynchronous locks share.
#pragma once

#include <exception>
#include <functional>
#include <string>
#include <system_error>
#include <thread>

#include <gtest/gtest.h>
#include <postgres_lock/asio.hpp>

#if defined(POSTGRES_LOCK_BOOST_ASIO)
#include <boost/asio/experimental/awaitable_operators.hpp>
namespace asio = boost::asio;
#define ASIO_CONCURRENCY_HINT_UNSAFE BOOST_ASIO_CONCURRENCY_HINT_UNSAFE
#elif defined(POSTGRES_LOCK_HAS_CO_AWAIT)
#include <asio/experimental/awaitable_operators.hpp>
#endif

#include "server.hpp"

namespace async
{
using namespace std::chrono_literals;

/// What came of an operation: "true", "false", a SQLSTATE, or the name of what went wrong.
[[nodiscard]] inline std::string
outcome(const std::exception_ptr &failure, bool value = true)
{
	try
	{
		if (failure)
			std::rethrow_exception(failure);
		return value ? "true" : "false";
	}
	catch (const pglock::timeout_error &)
	{
		return "timeout";
	}
	catch (const pglock::acquire_error &)
	{
		return "acquire_error";
	}
	catch (const pglock::lease_lost &)
	{
		return "lease lost";
	}
	catch (const pglock::not_held_error &)
	{
		return "not held";
	}
	catch (const pglock::connection_lost &)
	{
		return "lost";
	}
	catch (const pglock::error &error)
	{
		return error.sqlstate().empty() ? error.what() : std::string(error.sqlstate());
	}
#if defined(POSTGRES_LOCK_BOOST_ASIO)
	catch (const boost::system::system_error &error)
	{
		return error.code() == asio::error::operation_aborted ? "aborted" : error.what();
	}
#endif
	catch (const std::system_error &error)
	{
		if (error.code() == make_error_code(asio::error::operation_aborted))
			return "aborted";
		return error.code() == std::errc::resource_deadlock_would_occur ? "deadlock" : error.what();
	}
	catch (const std::exception &error)
	{
		return error.what();
	}
}

/// A completion token that notes what came of an operation.
[[nodiscard]] inline auto
note(std::string &into)
{
	return
		[&into](std::exception_ptr failure, bool value = true) { into = outcome(failure, value); };
}

/// One thread, which is that of the test, runs everything.
class Async : public testing::Test
{
  protected:
	asio::io_context context;

	/// Runs until nothing is under way: not for ever, should a test have found a fault.
	void
	run()
	{
		context.restart();
		context.run_for(60s);
		ASSERT_TRUE(context.stopped()) << "something does not end";
	}

	/// Runs until that many sessions wait for advisory locks.
	void
	run_until_waiting(int count = 1)
	{
		run_until("count(*) = " + std::to_string(count) +
				  " FROM pg_locks WHERE locktype = 'advisory' AND NOT granted");
	}

	/// Runs until an SQL condition is true.
	void
	run_until(const std::string &condition)
	{
		server::libpq_session watcher;

		ASSERT_TRUE(server::soon([&] {
			context.restart();
			context.poll();
			return watcher.query("SELECT " + condition) == "t";
		})) << condition;
	}

	/// Takes a lock at once, or waits for it here.
	std::string
	acquire(pglock::async_lock &lock)
	{
		std::string noted;

		lock.async_acquire(note(noted));
		run();
		return noted;
	}

	std::string
	release(pglock::async_lock &lock)
	{
		std::string noted;

		lock.async_release(note(noted));
		run();
		return noted;
	}

#if defined(POSTGRES_LOCK_HAS_CO_AWAIT)
	/// Runs a coroutine to its end, and says what came of it.
	std::string
	result_of(std::function<asio::awaitable<void>()> body)
	{
		std::string noted = "nothing";

		asio::co_spawn(context, std::move(body),
					   [&](std::exception_ptr failure) { noted = outcome(failure); });
		run();
		return noted;
	}

	asio::awaitable<void>
	sleep(std::chrono::milliseconds time)
	{
		asio::steady_timer timer(context, time);

		co_await timer.async_wait(asio::use_awaitable);
	}
#endif
};
} // namespace async
