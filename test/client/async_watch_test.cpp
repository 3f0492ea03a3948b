// The end of a session is noticed though nobody sends anything.
#include <exception>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>

#include "async.hpp"
#include "handler.hpp"

using async::note;
using namespace std::chrono_literals;

namespace
{
class Watch : public async::Async
{
  protected:
	failures heard;
	server::libpq_session session;
	std::stop_source stop;
	std::string noted;
};
} // namespace

TEST_F(Watch, RequestsStopWithinASecondOfTheEnd)
{
	pglock::async_lock lock(context, session.get(), "leader");

	EXPECT_EQ(acquire(lock), "true");
	lock.async_watch(stop, note(noted));
	EXPECT_EQ(session.query("SELECT 1"), "1") << "others can use the connection";
	context.run_for(600ms);
	EXPECT_FALSE(stop.stop_requested());
	EXPECT_EQ(noted, "");

	server::terminate(server::pid_of(session));

	auto ended = std::chrono::steady_clock::now();

	run();
	EXPECT_LT(std::chrono::steady_clock::now() - ended, 1s);
	EXPECT_TRUE(stop.stop_requested());
	EXPECT_EQ(noted, "true");
}

TEST_F(Watch, NoticesThatTheConnectionIsClosed)
{
	pglock::async_watch(context, session.get(), stop, note(noted));
	context.run_for(300ms);
	session.close();
	run();
	EXPECT_TRUE(stop.stop_requested());
	EXPECT_EQ(noted, "true");
}

TEST_F(Watch, WhoHearsOfTheEndMayEndOtherObjectsOfTheSession)
{
	std::optional<pglock::async_guard> guard;
	pglock::guard watched(session.get(), "b");
	std::stop_callback end_guard(watched.stop_token(), [&] { guard.reset(); });

	pglock::async_acquire(context, session.get(), "a", {},
						  [&](std::exception_ptr failure, pglock::async_guard made) {
							  EXPECT_EQ(async::outcome(failure), "true");
							  guard = std::move(made);
						  });
	run();
	session.close();
	EXPECT_FALSE(guard);
	EXPECT_EQ(heard.all().size(), 1U) << "its lock could not be released";
}

TEST_F(Watch, CanBeCancelled)
{
	asio::cancellation_signal signal;

	pglock::async_watch(context.get_executor(), session.get(), stop,
						asio::bind_cancellation_slot(signal.slot(), note(noted)));
	context.run_for(10ms);
	signal.emit(asio::cancellation_type::total);
	run();
	EXPECT_EQ(noted, "aborted");
	EXPECT_FALSE(stop.stop_requested());
}

TEST_F(Watch, CanBeCancelledThoughItIsToLookAtTheSameTime)
{
	asio::cancellation_signal signal;
	asio::steady_timer timer(context);

	pglock::async_watch(context, session.get(), stop,
						asio::bind_cancellation_slot(signal.slot(), note(noted)));
	context.run_for(10ms);
	// both have expired when the context looks at its timers
	timer.expires_after(100ms);
	timer.async_wait([&](std::error_code) { signal.emit(asio::cancellation_type::total); });
	std::this_thread::sleep_for(400ms);
	run();
	EXPECT_EQ(noted, "aborted");
}

TEST_F(Watch, EndsWhenSomebodyElseRequestsStop)
{
	pglock::async_watch(context, session.get(), stop, note(noted));
	context.run_for(10ms);
	stop.request_stop();
	run();
	EXPECT_EQ(noted, "true");
}

TEST_F(Watch, OfALockIsOfItsSession)
{
	pglock::async_lock lock(context, session.get(), "leader");

	EXPECT_EQ(acquire(lock), "true");
	PQreset(session.get());
	lock.async_watch(stop, note(noted));
	run();
	EXPECT_TRUE(stop.stop_requested()) << "the lock has gone with its session";
	session.close();
	noted.clear();
	lock.async_watch(stop, note(noted));
	run();
	EXPECT_EQ(noted, "true");
}

TEST_F(Watch, NoticesAResetThatIsUnderWay)
{
	pglock::async_lock lock(context, session.get(), "leader");

	EXPECT_EQ(acquire(lock), "true");
	lock.async_watch(stop, note(noted));
	context.run_for(10ms);
	ASSERT_EQ(PQresetStart(session.get()), 1);
	EXPECT_TRUE(lock.lost());
	run();
	EXPECT_TRUE(stop.stop_requested());
}

TEST_F(Watch, GoesOnWhileTheLockIsWaitedFor)
{
	server::libpq_session other;
	std::optional<pglock::guard> holder(std::in_place, other.ref(), "leader");
	pglock::async_lock lock(context, session.get(), "leader");
	std::string taken;

	lock.async_watch(stop, note(noted));
	lock.async_acquire(note(taken));
	run_until_waiting();
	holder.reset();
	EXPECT_TRUE(server::soon([&] {
		context.restart();
		context.poll();
		return taken == "true";
	}));
	EXPECT_FALSE(stop.stop_requested());
	server::terminate(server::pid_of(session));
	run();
	EXPECT_TRUE(stop.stop_requested());
}

TEST_F(Watch, KeepsTheSessionAlive)
{
	server::libpq_session idle;
	server::libpq_session kept;
	server::libpq_session in_transaction;
	pglock::async_lock left(context, idle.get(), "left");
	pglock::async_lock lock(context, kept.get(), "leader", {.keep_alive = 500ms});
	pglock::async_lock in_block(context, in_transaction.get(), "block", {.keep_alive = 500ms});
	std::stop_source of_left;
	std::stop_source of_block;
	std::string none;

	EXPECT_EQ(acquire(left), "true");
	EXPECT_EQ(acquire(lock), "true");
	EXPECT_EQ(acquire(in_block), "true");
	in_transaction.query("SET idle_in_transaction_session_timeout = '1s'");
	in_transaction.begin();
	idle.query("SET idle_session_timeout = '1s'");
	kept.query("SET idle_session_timeout = '1s'");
	left.async_watch(of_left, note(none));
	lock.async_watch(stop, note(noted));
	in_block.async_watch(of_block, note(none));
	context.restart();
	context.run_for(2500ms);
	EXPECT_TRUE(of_left.stop_requested()) << "else the test sees nothing";
	EXPECT_TRUE(of_block.stop_requested()) << "transactions have another timeout";
	EXPECT_FALSE(stop.stop_requested());
	EXPECT_EQ(kept.query("SELECT pglock.held('leader')"), "t");
	stop.request_stop();
	EXPECT_EQ(release(lock), "true");
}
