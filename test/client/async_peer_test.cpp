// A peer that takes what it is sent, and never answers, such as a frozen pooler: what is cancelled
// ends all the same, and nothing is held.
#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "async.hpp"
#include "handler.hpp"
#include "relay.hpp"

using async::note;
using async::outcome;
using namespace std::chrono_literals;
using pglock::async_lock;

namespace
{
class SilentPeer : public async::Async
{
  protected:
	server::libpq_session other;
	relay peer{0us};
	server::libpq_session session{("host=" + peer.folder()).c_str()};
	std::string pid = server::pid_of(session);
	std::chrono::steady_clock::time_point start;
	asio::cancellation_signal signal;
	std::string noted;

	/// The peer waits for the server, and that for the lock.
	void
	TearDown() override
	{
		session.close();
		other.close();
	}

	auto
	cancellable(std::string &into)
	{
		return asio::bind_cancellation_slot(signal.slot(), note(into));
	}

	void
	freeze()
	{
		peer.freeze();
		start = std::chrono::steady_clock::now();
	}

	/// The connection has been closed, without waiting long.
	void
	expect_closed()
	{
		EXPECT_LT(std::chrono::steady_clock::now() - start, 10s);
		EXPECT_EQ(PQstatus(session.get()), CONNECTION_BAD);
	}
};
} // namespace

TEST_F(SilentPeer, AWaitEndsWhenItIsCancelled)
{
	pglock::guard holder(other.ref(), "a");
	async_lock lock(context, session.get(), "a");

	lock.async_acquire(cancellable(noted));
	run_until_waiting();
	freeze();
	signal.emit(asio::cancellation_type::terminal);
	run();
	EXPECT_EQ(noted, "aborted");
	EXPECT_FALSE(lock.locked());
	expect_closed();
	EXPECT_EQ(acquire(lock), "lost");
}

TEST_F(SilentPeer, ACancellationThatMayNotCloseTheConnectionWaits)
{
	pglock::guard holder(other.ref(), "a");
	async_lock lock(context, session.get(), "a");

	lock.async_acquire(cancellable(noted));
	run_until_waiting();
	freeze();
	signal.emit(asio::cancellation_type::total);
	context.run_for(2s);
	EXPECT_EQ(noted, "");
	signal.emit(asio::cancellation_type::all);
	run();
	EXPECT_EQ(noted, "aborted");
	expect_closed();
}

TEST_F(SilentPeer, AReleaseEndsWhenItIsCancelled)
{
	async_lock lock(context, session.get(), "a");

	EXPECT_EQ(acquire(lock), "true");
	freeze();
	lock.async_release(cancellable(noted));
	context.run_for(10ms);
	signal.emit(asio::cancellation_type::terminal);
	run();
	EXPECT_EQ(noted, "aborted");
	EXPECT_FALSE(lock.locked());
	expect_closed();
	EXPECT_TRUE(server::soon([] { return server::is_free("a"); }));
}

TEST_F(SilentPeer, TheEndOfTheObjectEndsItsWait)
{
	pglock::guard holder(other.ref(), "a");
	std::optional<async_lock> lock(std::in_place, context, session.get(), "a");

	lock->async_acquire(note(noted));
	run_until_waiting();
	freeze();
	lock.reset();
	run();
	EXPECT_EQ(noted, "aborted");
	expect_closed();
}

TEST_F(SilentPeer, TheEndOfTheContextDoesNotWait)
{
	pglock::guard holder(other.ref(), "a");
	std::optional<asio::io_context> brief(std::in_place);
	std::optional<async_lock> lock(std::in_place, *brief, session.get(), "a");

	lock->async_acquire(cancellable(noted));
	server::wait_for("true");
	EXPECT_TRUE(server::soon([&] {
		brief->restart();
		brief->poll();
		return other.query("SELECT count(*) FROM pg_locks WHERE NOT granted") == "1";
	}));
	freeze();
	signal.emit(asio::cancellation_type::total);
	brief->restart();
	brief->poll(); // the request to cancel is under way
	lock.reset();
	brief.reset();
	EXPECT_EQ(noted, "");
	expect_closed();
}

TEST_F(SilentPeer, DoesNotStopTheThread)
{
	pglock::guard holder(other.ref(), "a");
	async_lock lock(context, session.get(), "a");
	asio::steady_timer timer(context);
	int ticks = 0;
	std::function<void(std::error_code)> tick = [&](std::error_code) {
		if (++ticks < 20)
		{
			timer.expires_after(5ms);
			timer.async_wait(tick);
		}
	};

	lock.async_acquire(cancellable(noted));
	run_until_waiting();
	freeze();
	signal.emit(asio::cancellation_type::total);
	tick({});
	EXPECT_TRUE(server::soon([&] {
		context.restart();
		context.poll();
		return ticks == 20;
	}));
	EXPECT_EQ(noted, "") << "the request is still under way";
	session.close();
	run();
	EXPECT_EQ(noted, "lost");
}

#if defined(POSTGRES_LOCK_HAS_CO_AWAIT)

using namespace asio::experimental::awaitable_operators;
using asio::awaitable;
using asio::use_awaitable;

TEST_F(SilentPeer, TheFirstOfTwoCancelsTheWait)
{
	pglock::guard holder(other.ref(), "a");

	asio::co_spawn(
		context,
		[&]() -> awaitable<void> {
			async_lock lock(context, session.get(), "a");
			auto ended = co_await (lock.async_acquire(use_awaitable) || sleep(50ms));

			EXPECT_EQ(ended.index(), 1U);
			EXPECT_FALSE(lock.locked());
		},
		[&](std::exception_ptr failure) { noted = outcome(failure); });
	freeze();
	run();
	EXPECT_EQ(noted, "true");
	expect_closed();
}

TEST_F(SilentPeer, WithLockEndsWhenItIsCancelled)
{
	failures heard;

	asio::co_spawn(
		context,
		[&]() -> awaitable<void> {
			auto ended = co_await (pglock::with_lock(session.get(), "a", {},
													 [&]() -> awaitable<void> {
														 freeze();
														 co_await sleep(1h);
													 }) ||
								   sleep(100ms));

			EXPECT_EQ(ended.index(), 1U);
		},
		[&](std::exception_ptr failure) { noted = outcome(failure); });
	run();
	EXPECT_EQ(noted, "true");
	expect_closed();
	EXPECT_EQ(heard.all().size(), 1U);
	EXPECT_TRUE(server::soon([] { return server::is_free("a"); }));
}

#endif
