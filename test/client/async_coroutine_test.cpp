// Locks in coroutines.
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "async.hpp"
#include "handler.hpp"

#if defined(POSTGRES_LOCK_HAS_CO_AWAIT)

using namespace std::chrono_literals;
using asio::awaitable;
using asio::use_awaitable;
using async::outcome;

namespace
{
class Coroutine : public async::Async
{
  protected:
	/// What comes of a lock of that scope, taken in a transaction block, round that body.
	std::string
	with_lock_in_block(pglock::scope scope, std::function<awaitable<void>()> body)
	{
		session.begin();
		return result_of([&]() -> awaitable<void> {
			co_await pglock::with_lock(session.get(), "a", {.scope = scope}, body);
		});
	}

	server::libpq_session session;
};

struct broken : std::runtime_error
{
	broken() : std::runtime_error("broken")
	{
	}
};
} // namespace

TEST_F(Coroutine, TakesAndReleases)
{
	EXPECT_EQ(result_of([&]() -> awaitable<void> {
				  pglock::async_lock lock(context, session.get(), "a");

				  EXPECT_TRUE(co_await lock.async_acquire(use_awaitable));
				  EXPECT_FALSE(server::is_free("a"));
				  EXPECT_TRUE(co_await lock.async_release(use_awaitable));
				  EXPECT_TRUE(server::is_free("a"));
			  }),
			  "true");
}

TEST_F(Coroutine, NeedsNoTokenAndNoOptions)
{
	EXPECT_EQ(result_of([&]() -> awaitable<void> {
				  pglock::async_lock lock(context, session.get(), "a");

				  EXPECT_TRUE(co_await lock.async_acquire());
				  EXPECT_TRUE(co_await lock.async_release());
				  EXPECT_TRUE(co_await lock.async_acquire(5s));
				  EXPECT_GT(co_await lock.async_token(), 0);
				  EXPECT_TRUE(co_await lock.async_handle_error());

				  auto guard = co_await pglock::async_acquire(context, session.get(), {"a", "b"});

				  EXPECT_GT(co_await guard.async_token(), 0);
				  EXPECT_GT(co_await guard.async_token("b"), 0);
				  EXPECT_TRUE(co_await guard.async_unlock());

				  auto slot = co_await pglock::async_acquire_slot(context, session.get(), "a", 2,
																  {.timeout = 5s});

				  EXPECT_TRUE(co_await slot.async_unlock());
			  }),
			  "true");
}

TEST_F(Coroutine, WithLockIsOfTheBodysExecutor)
{
	using strand = asio::strand<asio::io_context::executor_type>;
	auto executor = asio::make_strand(context);
	std::string noted;
	auto work = [&]() -> awaitable<int, strand> {
		auto held = [&](pglock::async_guard &guard) -> awaitable<int, strand> {
			EXPECT_TRUE(executor.running_in_this_thread());
			EXPECT_TRUE(guard.locked());
			EXPECT_FALSE(server::is_free("a"));
			co_return 42;
		};
		auto of_slot = [&]() -> awaitable<void, strand> {
			co_await asio::post(executor, asio::use_awaitable_t<strand>());
			throw broken();
		};
		int made = co_await pglock::with_lock(session.get(), "a", {}, held);

		EXPECT_TRUE(executor.running_in_this_thread());
		EXPECT_TRUE(server::is_free("a"));
		co_await pglock::with_slot(session.get(), "b", 2, {}, of_slot);
		co_return made;
	};

	asio::co_spawn(executor, work(),
				   [&](std::exception_ptr failure, int) { noted = outcome(failure); });
	run();
	EXPECT_EQ(noted, "broken");
	EXPECT_TRUE(server::is_free("b"));
}

TEST_F(Coroutine, GuardsRollBackAfterAnException)
{
	session.query("CREATE TEMP TABLE written (n int)");
	EXPECT_EQ(result_of([&]() -> awaitable<void> {
				  auto guard = co_await pglock::async_acquire(context.get_executor(), session.get(),
															  "a", {.timeout = 5s}, use_awaitable);

				  EXPECT_TRUE(guard.locked());
				  EXPECT_GT(co_await guard.async_token(use_awaitable), 0);
				  session.begin();
				  session.query("INSERT INTO written VALUES (1)");
				  throw broken();
			  }),
			  "broken");
	EXPECT_EQ(session.query("SELECT count(*) FROM written"), "0");
	EXPECT_TRUE(server::is_free("a"));
}

TEST_F(Coroutine, WithLockReleasesAndReturns)
{
	EXPECT_EQ(result_of([&]() -> awaitable<void> {
				  int made =
					  co_await pglock::with_lock(session.get(), "a", {}, [&]() -> awaitable<int> {
						  EXPECT_FALSE(server::is_free("a"));
						  co_return 42;
					  });

				  EXPECT_EQ(made, 42);
				  EXPECT_TRUE(server::is_free("a"));
				  co_await pglock::with_lock(session.get(), "a", {.shared = true},
											 [&]() -> awaitable<void> { co_return; });
			  }),
			  "true");
	EXPECT_TRUE(server::is_free("a"));
}

TEST_F(Coroutine, WithLockRollsBackAndReleasesAfterAnException)
{
	failures heard;

	session.query("CREATE TEMP TABLE written (n int)");
	EXPECT_EQ(result_of([&]() -> awaitable<void> {
				  co_await pglock::with_lock(session.get(), "a", {}, [&]() -> awaitable<void> {
					  session.begin();
					  session.query("INSERT INTO written VALUES (1)");
					  co_await sleep(1ms);
					  throw broken();
				  });
			  }),
			  "broken");
	EXPECT_EQ(session.query("SELECT count(*) FROM written"), "0");
	EXPECT_TRUE(server::is_free("a"));
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(Coroutine, WithLockRollsBackWhatTheBodyHasLeftFailed)
{
	failures heard;

	for (auto scope : {pglock::scope::session, pglock::scope::transaction})
	{
		EXPECT_EQ(with_lock_in_block(scope,
									 [&]() -> awaitable<void> {
										 EXPECT_THROW(session.query("SELECT 1/0"), pglock::error);
										 co_return;
									 }),
				  "true")
			<< "the body has caught the error";
		EXPECT_EQ(PQtransactionStatus(session.get()), PQTRANS_IDLE);
		EXPECT_TRUE(server::is_free("a"));
	}
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(Coroutine, WithLockTellsOfAReleaseThatFails)
{
	failures heard;

	EXPECT_EQ(result_of([&]() -> awaitable<void> {
				  co_await pglock::with_lock(session.get(), "a", {}, [&]() -> awaitable<void> {
					  server::terminate(server::pid_of(session));
					  throw broken();
					  co_return;
				  });
			  }),
			  "broken");
	EXPECT_EQ(heard.all().size(), 1U);
}

TEST_F(Coroutine, WithLockCancelsABodyWhoseSessionHasEnded)
{
	failures heard;
	auto body = [&]() -> awaitable<void> {
		co_await sleep(1ms);
		server::terminate(server::pid_of(session));
		co_await sleep(1h);
	};

	EXPECT_EQ(result_of([&]() -> awaitable<void> {
				  co_await pglock::with_lock(session.get(), "a", {}, body);
			  }),
			  "lost");
	EXPECT_TRUE(heard.all().empty()) << "whoever awaited it has heard of it";
	PQreset(session.get());
	EXPECT_EQ(result_of([&]() -> awaitable<void> {
				  co_await pglock::with_lock(session.get(), "a", {}, [&]() -> awaitable<void> {
					  try
					  {
						  co_await body();
					  }
					  catch (const std::exception &)
					  {
						  throw broken();
					  }
				  });
			  }),
			  "broken")
		<< "what the body makes of that is its own";
}

TEST_F(Coroutine, WithLockCancelsItsBodyAsTheCoroutineAllows)
{
	asio::cancellation_signal signal;
	std::string noted;

	asio::co_spawn(
		context,
		[&]() -> awaitable<void> {
			co_await asio::this_coro::reset_cancellation_state(asio::enable_total_cancellation());
			co_await pglock::with_lock(session.get(), "a", {},
									   [&]() -> awaitable<void> { co_await sleep(1h); });
		},
		asio::bind_cancellation_slot(signal.slot(), [&](std::exception_ptr failure) {
			noted = outcome(failure);
		}));
	run_until("NOT pglock.is_free('a')");
	signal.emit(asio::cancellation_type::total);
	run();
	EXPECT_EQ(noted, "aborted");
	EXPECT_TRUE(server::is_free("a"));
}

TEST_F(Coroutine, WithLockReleasesWhenTheBodyIsCancelled)
{
	using namespace asio::experimental::awaitable_operators;

	EXPECT_EQ(result_of([&]() -> awaitable<void> {
				  auto ended = co_await (
					  pglock::with_lock(session.get(), "a", {},
										[&]() -> awaitable<void> { co_await sleep(1h); }) ||
					  sleep(20ms));

				  EXPECT_EQ(ended.index(), 1U);
				  EXPECT_TRUE(server::is_free("a"));
				  EXPECT_EQ(session.query("SELECT 1"), "1");
			  }),
			  "true");
}

TEST_F(Coroutine, AfterWithLockItCanStillBeCancelled)
{
	using namespace asio::experimental::awaitable_operators;

	auto start = std::chrono::steady_clock::now();
	int rounds = 0;
	auto body = [&]() -> awaitable<void> {
		co_await pglock::with_lock(session.get(), "a", {}, []() -> awaitable<void> { co_return; });
		co_await sleep(1h);
	};
	auto stubborn = [&]() -> awaitable<void> {
		for (; rounds < 100; rounds++)
			try
			{
				co_await pglock::with_lock(session.get(), "a", {},
										   [&]() -> awaitable<void> { co_await sleep(1h); });
			}
			catch (const std::exception &)
			{
			}
	};

	EXPECT_EQ(result_of([&]() -> awaitable<void> { co_await (body() || sleep(20ms)); }), "true");
	EXPECT_EQ(result_of([&]() -> awaitable<void> { co_await (stubborn() || sleep(20ms)); }),
			  "true");
	EXPECT_EQ(rounds, 100) << "none but the first took the lock";
	EXPECT_LT(std::chrono::steady_clock::now() - start, 30s);
	EXPECT_TRUE(server::is_free("a"));
}

TEST_F(Coroutine, WithLockEndsIfItIsCancelledTooLateForTheLock)
{
	asio::cancellation_signal signal;
	std::string noted;
	bool runs = false;

	session.begin();
	asio::co_spawn(
		context,
		[&]() -> awaitable<void> {
			co_await pglock::with_lock(session.get(), "a", {.scope = pglock::scope::transaction},
									   [&]() -> awaitable<void> {
										   runs = true;
										   co_return;
									   });
		},
		asio::bind_cancellation_slot(signal.slot(), [&](std::exception_ptr failure) {
			noted = outcome(failure);
		}));
	// the lock is free, so its transaction will have it
	while (PQtransactionStatus(session.get()) != PQTRANS_ACTIVE)
		context.poll_one();
	signal.emit(asio::cancellation_type::terminal);
	run();
	EXPECT_EQ(noted, "aborted");
	EXPECT_FALSE(runs);
	EXPECT_TRUE(server::is_free("a"));
	EXPECT_EQ(session.query("SELECT 1"), "1");
}

TEST_F(Coroutine, WithLockTakesSeveralKeys)
{
	std::vector<pglock::key> keys = {"a", "b"};

	EXPECT_EQ(result_of([&]() -> awaitable<void> {
				  co_await pglock::with_lock(session.get(), keys, {}, [&]() -> awaitable<void> {
					  EXPECT_FALSE(server::is_free("a") || server::is_free("b"));
					  co_return;
				  });
			  }),
			  "true");
}

TEST_F(Coroutine, TakesSeveralKeysInBraces)
{
	EXPECT_EQ(
		result_of([&]() -> awaitable<void> {
			std::string third = "c";
			auto guard = co_await pglock::async_acquire(context, session.get(), {"b", 42, third},
														{.timeout = 5s}, use_awaitable);

			EXPECT_FALSE(server::is_free("b") || server::is_free("42") || server::is_free("c"));
			EXPECT_TRUE(co_await guard.async_unlock(use_awaitable));
			co_await pglock::with_lock(session.get(), {"a", third}, {}, [&]() -> awaitable<void> {
				EXPECT_FALSE(server::is_free("a") || server::is_free("c"));
				co_return;
			});
		}),
		"true");
}

TEST_F(Coroutine, WithLockTellsOfABusyConnection)
{
	failures heard;

	for (auto scope : {pglock::scope::session, pglock::scope::transaction})
	{
		EXPECT_EQ(with_lock_in_block(scope,
									 [&]() -> awaitable<void> {
										 PQsendQuery(session.get(), "SELECT pg_sleep(0)");
										 throw broken();
										 co_return;
									 }),
				  "broken");
		while (PGresult *result = PQgetResult(session.get()))
			PQclear(result);
		session.rollback();
		session.query("SELECT pglock.release_all()");
	}
	EXPECT_EQ(heard.all().size(), 2U);
}

TEST_F(Coroutine, TheFirstOfTwoCancelsTheWait)
{
	using namespace asio::experimental::awaitable_operators;

	server::libpq_session other;
	pglock::guard holder(other.ref(), "a");

	EXPECT_EQ(result_of([&]() -> awaitable<void> {
				  pglock::async_lock lock(context, session.get(), "a");
				  auto ended = co_await (lock.async_acquire(use_awaitable) || sleep(10ms));

				  EXPECT_EQ(ended.index(), 1U);
				  EXPECT_FALSE(lock.locked());
				  EXPECT_EQ(session.query("SELECT 1"), "1");
			  }),
			  "true");
}

#endif
