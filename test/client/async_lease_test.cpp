// Leases without waiting in the thread: taken, renewed, checked, released, cancelled, and around a
// coroutine.
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include <postgres_lock/asio_lease.hpp>

#include "async.hpp"
#include "handler.hpp"
#include "relay.hpp"

using namespace std::chrono_literals;
using async::note;
using async::outcome;
using pglock::async_lease_guard;
using pglock::boot_clock;
using pglock::lease;

static_assert(!std::is_copy_constructible_v<async_lease_guard>);
static_assert(std::is_nothrow_move_constructible_v<async_lease_guard>);
static_assert(std::is_nothrow_move_assignable_v<async_lease_guard>);

namespace
{
class AsyncLease : public async::Async
{
  protected:
	server::libpq_session session;
	server::libpq_session other;
	failures heard;
	std::string noted;
	std::optional<async_lease_guard> got;
	std::optional<lease> taken;

	/// For the next test, should this one have left a lease behind.
	void
	TearDown() override
	{
		other.query("SELECT pglock.revoke_lease('job')");
	}

	auto
	keep_guard()
	{
		return [this](std::exception_ptr failure, async_lease_guard guard) {
			noted = outcome(failure);
			if (!failure)
				got.emplace(std::move(guard));
		};
	}

	auto
	keep_lease()
	{
		return [this](std::exception_ptr failure, std::optional<lease> made) {
			noted = outcome(failure, made.has_value());
			taken = made;
		};
	}

	std::string
	acquire(const pglock::lease_options &options = {})
	{
		pglock::async_acquire_lease(context, session.get(), "job", options, keep_guard());
		run();
		return noted;
	}

	/// Runs until somebody waits for the lease.
	void
	run_until_waited_for()
	{
		run_until("EXISTS (SELECT FROM pglock.leases WHERE key = 'job' AND waiters = 1)");
	}

	/// Could another one be had at once?
	[[nodiscard]] bool
	is_free()
	{
		std::optional<lease> had = lease::acquire(other.get(), "job", {.timeout = 0s});

		return had && had->release(other.get());
	}
};
} // namespace

TEST_F(AsyncLease, IsTakenRenewedCheckedAndReleased)
{
	auto start = boot_clock::now();

	EXPECT_EQ(acquire({.ttl = 20s, .timeout = 5s, .holder = "node a", .slots = 2}), "true");
	EXPECT_GT(got->token(), 0);
	EXPECT_GE(got->lease().deadline(), start + 20s);
	EXPECT_LE(got->lease().deadline(), boot_clock::now() + 20s);
	EXPECT_FALSE(got->expired());
	EXPECT_EQ(other.query("SELECT holder || ttl || token FROM pglock.leases WHERE key = 'job'"),
			  "node a00:00:20" + std::to_string(got->token()));

	auto before = got->lease().deadline();

	got->async_renew(note(noted = ""));
	run();
	EXPECT_EQ(noted, "true");
	EXPECT_GT(got->lease().deadline(), before);
	session.begin();
	got->async_check([&](std::exception_ptr failure) { noted = "checked " + outcome(failure); });
	run();
	EXPECT_EQ(noted, "checked true");
	session.commit();
	got->async_release(note(noted));
	run();
	EXPECT_EQ(noted, "true");
	EXPECT_TRUE(got->expired());
	EXPECT_TRUE(is_free());
	got->async_release(note(noted));
	run();
	EXPECT_EQ(noted, "false") << "there is nothing to release any more";
	got.reset();
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(AsyncLease, BelongsToNoConnection)
{
	pglock::async_take_lease(context, session.get(), "job", {.timeout = 5s}, keep_lease());
	run();
	EXPECT_EQ(noted, "true");
	session.close();
	EXPECT_FALSE(is_free()) << "a lease is no guard";
	pglock::async_renew_lease(context, other.get(), *taken, note(noted = ""));
	run();
	EXPECT_EQ(noted, "true");
	pglock::async_holds_lease(context, other.get(), *taken, note(noted = ""));
	run();
	EXPECT_EQ(noted, "true");
	pglock::async_check_lease(context, other.get(), *taken,
							  [&](std::exception_ptr failure) { noted = outcome(failure); });
	run();
	EXPECT_EQ(noted, "true");
	pglock::async_release_lease(context, other.get(), *taken, note(noted = ""));
	run();
	EXPECT_EQ(noted, "true");
	EXPECT_TRUE(taken->expired());
	pglock::async_holds_lease(context, other.get(), *taken, note(noted));
	run();
	EXPECT_EQ(noted, "false");
}

TEST_F(AsyncLease, ThatIsLostSaysSo)
{
	EXPECT_EQ(acquire(), "true");
	EXPECT_EQ(other.query("SELECT pglock.revoke_lease('job')"), "1");
	session.begin();
	got->async_check([&](std::exception_ptr failure) { noted = outcome(failure); });
	run();
	EXPECT_EQ(noted, "lease lost");
	EXPECT_TRUE(got->expired());
	session.rollback();
	got->async_renew(note(noted));
	run();
	EXPECT_EQ(noted, "false");
	got->async_release(note(noted = ""));
	run();
	EXPECT_EQ(noted, "false");
}

TEST_F(AsyncLease, TellsOfARefusal)
{
	lease holder = lease::acquire(other.get(), "job").value();

	for (bool in_block : {false, true})
	{
		if (in_block)
			session.begin();
		EXPECT_EQ(acquire({.timeout = 1ms}), "timeout");
		EXPECT_EQ(acquire({.timeout = 0s}), "timeout");
		pglock::async_take_lease(context, session.get(), "job", {.timeout = 1ms}, keep_lease());
		run();
		EXPECT_EQ(noted, "false");
		EXPECT_EQ(session.query("SELECT 'well'"), "well");
	}
	session.rollback();
	EXPECT_EQ(acquire({.ttl = 0s}), "22023");
	EXPECT_EQ(acquire({.slots = 0}), "22023");
	EXPECT_THROW(pglock::async_acquire_lease(context, nullptr, "job", {}, keep_guard()),
				 std::invalid_argument);
	EXPECT_FALSE(got);
	holder.release(other.get());
}

TEST_F(AsyncLease, AGuardThatHoldsNothingSaysSo)
{
	async_lease_guard none;

	EXPECT_THROW((void)none.token(), std::logic_error);
	EXPECT_THROW(none.async_release(note(noted)), std::logic_error);
	EXPECT_EQ(acquire(), "true");
	none = std::move(*got);
	EXPECT_THROW((void)got->token(), std::logic_error);
	EXPECT_GT(none.token(), 0);
}

TEST_F(AsyncLease, AGuardReleasesAtItsEnd)
{
	EXPECT_EQ(acquire(), "true");
	PQreset(session.get());
	got->async_renew(note(noted = ""));
	run();
	EXPECT_EQ(noted, "true") << "it does not end with the session";
	got.reset();
	EXPECT_TRUE(is_free());

	EXPECT_EQ(acquire(), "true");
	session.begin();
	session.query("SELECT set_config('lease.test', 'not rolled back', true)");
	got->async_handle_error(note(noted = ""));
	run();
	EXPECT_EQ(noted, "true");
	EXPECT_EQ(session.query("SELECT current_setting('lease.test', true)"), "");
	EXPECT_TRUE(is_free());
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(AsyncLease, AGuardThatEndsUnderAnOperationReleasesAfterIt)
{
	EXPECT_EQ(acquire(), "true");
	got->async_renew(note(noted = ""));
	got.reset();
	run();
	EXPECT_EQ(noted, "true");
	EXPECT_TRUE(is_free());
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(AsyncLease, ACancelledWaitHoldsNothing)
{
	for (bool in_block : {false, true})
	{
		lease holder = lease::acquire(other.get(), "job").value();
		asio::cancellation_signal signal;

		if (in_block)
			session.begin();
		pglock::async_acquire_lease(context, session.get(), "job", {},
									asio::bind_cancellation_slot(signal.slot(), keep_guard()));
		run_until_waited_for();
		signal.emit(asio::cancellation_type::all);
		run();
		EXPECT_EQ(noted, "aborted");
		EXPECT_EQ(session.query("SELECT 'well'"), "well") << "a transaction goes on";
		holder.release(other.get());
		EXPECT_TRUE(is_free());
		session.query("ROLLBACK");
	}
	EXPECT_FALSE(got);
}

TEST_F(AsyncLease, ACancellationRacesWithTheGrant)
{
	for (int round = 0; round < 40; round++)
	{
		lease holder = lease::acquire(other.get(), "job").value();
		asio::cancellation_signal signal;

		pglock::async_acquire_lease(context, session.get(), "job", {},
									asio::bind_cancellation_slot(signal.slot(), keep_guard()));
		run_until_waited_for();
		holder.release(other.get());
		signal.emit(asio::cancellation_type::all);
		run();
		EXPECT_TRUE(noted == "aborted" || noted == "true") << noted;
		EXPECT_EQ(is_free(), noted == "aborted");
		got.reset();
		ASSERT_TRUE(is_free());
	}
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(AsyncLease, OneThatWasWaitedForLastsFromTheGrant)
{
	lease holder = lease::acquire(other.get(), "job").value();

	pglock::async_acquire_lease(context, session.get(), "job", {.ttl = 500ms}, keep_guard());
	run_until_waited_for();
	context.run_for(100ms);

	auto released = boot_clock::now();

	holder.release(other.get());
	run();
	EXPECT_GE(got->lease().deadline(), released + 500ms);
}

TEST_F(AsyncLease, ACheckThatWaitsForATakeoverCanBeCancelled)
{
	asio::cancellation_signal signal;

	EXPECT_EQ(acquire({.ttl = 20ms}), "true");
	EXPECT_TRUE(server::soon([&] { return got->expired(); }));
	// whoever takes a lease over keeps the key until the transaction ends
	other.begin();
	lease next = lease::acquire(other.get(), "job").value();

	session.begin();
	got->async_check(asio::bind_cancellation_slot(signal.slot(), [&](std::exception_ptr failure) {
		noted = outcome(failure);
	}));
	run_until_waiting();
	signal.emit(asio::cancellation_type::terminal);
	run();
	EXPECT_EQ(noted, "aborted");
	session.rollback();
	other.rollback();
}

TEST_F(AsyncLease, AServerThatDoesNotAnswerIsGivenUp)
{
	relay proxy{0us};
	server::libpq_session waiting(("host=" + proxy.folder()).c_str());

	pglock::async_acquire_lease(context, waiting.get(), "job", {.grace = 200ms}, keep_guard());
	run();
	EXPECT_EQ(noted, "true");
	proxy.freeze();
	got->async_renew(note(noted = ""));
	run();
	EXPECT_EQ(noted, "lost");
	EXPECT_EQ(PQstatus(waiting.get()), CONNECTION_BAD);
	got.reset();
	EXPECT_EQ(heard.all().size(), 1u);
}

#if defined(POSTGRES_LOCK_HAS_CO_AWAIT)
namespace
{
using asio::awaitable;
using asio::use_awaitable;

std::unique_ptr<PGconn, decltype(&PQfinish)>
connect()
{
	return {PQconnectdb("connect_timeout=5"), PQfinish};
}

class LeaseCoroutine : public AsyncLease
{
};
} // namespace

TEST_F(LeaseCoroutine, IsTakenAndReleased)
{
	EXPECT_EQ(result_of([&]() -> awaitable<void> {
				  auto guard = co_await pglock::async_acquire_lease(
					  context, session.get(), "job",
					  {.ttl = 15s, .timeout = 5s, .holder = "a holder with a long name"},
					  use_awaitable);

				  EXPECT_TRUE(co_await guard.async_renew(use_awaitable));
				  co_await guard.async_check(use_awaitable);
				  EXPECT_TRUE(co_await guard.async_release(use_awaitable));
				  EXPECT_TRUE(is_free());
			  }),
			  "true");
}

TEST_F(LeaseCoroutine, NeedsNoTokenAndNoOptions)
{
	EXPECT_EQ(result_of([&]() -> awaitable<void> {
				  auto held = co_await pglock::async_take_lease(context, session.get(), "job");

				  EXPECT_TRUE(co_await pglock::async_renew_lease(context, other.get(), *held));
				  EXPECT_TRUE(co_await pglock::async_release_lease(context, other.get(), *held));

				  auto guard = co_await pglock::async_acquire_lease(context, session.get(), "job");

				  co_await guard.async_check();
				  EXPECT_TRUE(co_await guard.async_release());
			  }),
			  "true");
}

TEST_F(LeaseCoroutine, WithLeaseIsOfTheBodysExecutor)
{
	using strand = asio::strand<asio::io_context::executor_type>;
	auto executor = asio::make_strand(context);
	auto work = [&]() -> awaitable<int, strand> {
		co_return co_await pglock::with_lease(session.get(), "job", {.ttl = 15s},
											  [&](async_lease_guard &) -> awaitable<int, strand> {
												  EXPECT_TRUE(executor.running_in_this_thread());
												  co_return 42;
											  });
	};

	asio::co_spawn(executor, work(), [&](std::exception_ptr failure, int made) {
		noted = outcome(failure, made == 42);
	});
	run();
	EXPECT_EQ(noted, "true");
}

TEST_F(LeaseCoroutine, WithLeaseMayBeTooLate)
{
	lease holder = lease::acquire(other.get(), "job").value();

	EXPECT_EQ(result_of([&]() -> awaitable<void> {
				  co_await pglock::with_lease(session.get(), "job", {.timeout = 1ms},
											  []() -> awaitable<void> {
												  ADD_FAILURE();
												  co_return;
											  });
			  }),
			  "timeout");
	holder.release(other.get());
}

TEST_F(LeaseCoroutine, WithLeaseRenewsOverAConnectionOfItsOwn)
{
	server::libpq_session named("application_name=renewing");
	const std::string renewing = "FROM pg_stat_activity WHERE application_name = 'renewing' AND "
								 "pid <> " +
								 server::pid_of(named);

	EXPECT_EQ(result_of([&]() -> awaitable<void> {
				  std::int64_t token = co_await pglock::with_lease(
					  named.get(), "job", {.ttl = 1500ms, .holder = "a holder with a long name"},
					  [&](async_lease_guard &guard) -> awaitable<std::int64_t> {
						  auto end = guard.lease().deadline() + 100ms;

						  // which may be lost
						  while (boot_clock::now() < end)
						  {
							  co_await sleep(500ms);
							  other.query("SELECT pg_terminate_backend(pid, 60000) " + renewing);
						  }
						  EXPECT_FALSE(guard.expired());
						  EXPECT_FALSE(is_free());
						  co_return guard.token();
					  });

				  EXPECT_GT(token, 0);
			  }),
			  "true");
	EXPECT_TRUE(is_free());
	EXPECT_EQ(other.query("SELECT count(*) " + renewing), "0") << "it is closed";
	EXPECT_EQ(named.query("SELECT 'well'"), "well");
	EXPECT_TRUE(heard.all().empty());
}

namespace
{
using lease_body = std::function<awaitable<void>(async_lease_guard &)>;

/// Renewed by a keeper, or on the executor.
class WithLease : public LeaseCoroutine, public testing::WithParamInterface<bool>
{
  protected:
	pglock::keeper keeper{connect};

	awaitable<void>
	with_lease(PGconn *connection, pglock::keeper &keeper, const pglock::lease_options &options,
			   lease_body body)
	{
		if (GetParam())
			return pglock::with_lease(connection, keeper, "job", options, std::move(body));
		return pglock::with_lease(connection, "job", options, std::move(body));
	}

	/// Runs a coroutine that does something with a lease, and says what came of it.
	std::string
	result_with_lease(const pglock::lease_options &options, lease_body body)
	{
		return result_of(
			[&]() -> awaitable<void> { return with_lease(session.get(), keeper, options, body); });
	}

	/// A body that does that, and then waits until it is cancelled.
	lease_body
	body_that(std::function<void()> does, bool expires)
	{
		return [this, does, expires](async_lease_guard &guard) -> awaitable<void> {
			does();
			try
			{
				co_await sleep(1h);
			}
			catch (const std::exception &)
			{
				noted = "cancelled";
				EXPECT_EQ(guard.expired(), expires);
				throw;
			}
		};
	}
};

INSTANTIATE_TEST_SUITE_P(, WithLease, testing::Bool(),
						 [](auto &tested) { return tested.param ? "ByAKeeper" : "OnTheExecutor"; });
} // namespace

TEST_P(WithLease, RenewsAndReleases)
{
	EXPECT_EQ(result_with_lease({.ttl = 1500ms, .timeout = 5s, .holder = "a long name of a holder"},
								[&](async_lease_guard &guard) -> awaitable<void> {
									EXPECT_EQ(other.query("SELECT holder FROM pglock.leases "
														  "WHERE key = 'job'"),
											  "a long name of a holder");
									co_await sleep(1700ms);
									EXPECT_FALSE(guard.expired());
									EXPECT_FALSE(is_free());
								}),
			  "true");
	EXPECT_TRUE(is_free());
	EXPECT_TRUE(heard.all().empty());
}

TEST_P(WithLease, LosesNothingThatTheBodyHasReleased)
{
	EXPECT_EQ(result_with_lease({.ttl = 1500ms},
								[&](async_lease_guard &guard) -> awaitable<void> {
									EXPECT_TRUE(co_await guard.async_release(asio::use_awaitable));
									EXPECT_TRUE(is_free());
									co_await sleep(1700ms);
								}),
			  "true");
	EXPECT_TRUE(heard.all().empty());
}

TEST_P(WithLease, RollsBackAndReleasesAfterAnException)
{
	session.query("CREATE TEMP TABLE written (n int)");
	EXPECT_EQ(result_with_lease({},
								[&](async_lease_guard &) -> awaitable<void> {
									session.begin();
									session.query("INSERT INTO written VALUES (1)");
									throw std::runtime_error("broken");
									co_return;
								}),
			  "broken");
	EXPECT_EQ(session.query("SELECT count(*) FROM written"), "0");
	EXPECT_TRUE(is_free());
	EXPECT_TRUE(heard.all().empty());
}

TEST_P(WithLease, RollsBackWhatTheBodyHasLeftFailed)
{
	EXPECT_EQ(result_with_lease({},
								[&](async_lease_guard &) -> awaitable<void> {
									session.begin();
									EXPECT_THROW(session.query("SELECT 1/0"), pglock::error);
									co_return;
								}),
			  "true");
	EXPECT_EQ(PQtransactionStatus(session.get()), PQTRANS_IDLE);
	EXPECT_TRUE(is_free());
	EXPECT_TRUE(heard.all().empty());
}

TEST_P(WithLease, CancelsABodyWhoseLeaseIsLost)
{
	auto revoke = [&] {
		EXPECT_EQ(other.query("SELECT pglock.revoke_lease('job')"), "1");
		session.begin();
	};

	EXPECT_EQ(result_with_lease({.ttl = 2s}, body_that(revoke, true)), "lease lost");
	EXPECT_EQ(PQtransactionStatus(session.get()), PQTRANS_IDLE) << "it is rolled back";
	EXPECT_TRUE(heard.all().empty());
}

TEST_P(WithLease, CancelsABodyInTimeWhenTheNetworkIsDead)
{
	relay proxy{0us};
	// it passes one connection on, so that another one is not answered
	server::libpq_session far(("host=" + proxy.folder()).c_str());
	pglock::keeper cut_off(
		[&]() -> pglock::connection_ref { throw pglock::connection_lost("no network"); });

	EXPECT_EQ(result_of([&]() -> awaitable<void> {
				  return with_lease(far.get(), cut_off, {.ttl = 3s},
									body_that([&] { proxy.freeze(); }, false));
			  }),
			  "lease lost");
	EXPECT_TRUE(heard.all().empty()) << "whoever awaited it has heard of it";
}

TEST_P(WithLease, CanBeCancelled)
{
	using namespace asio::experimental::awaitable_operators;

	EXPECT_EQ(result_of([&]() -> awaitable<void> {
				  auto ended =
					  co_await (with_lease(session.get(), keeper, {}, body_that([] {}, false)) ||
								sleep(20ms));

				  EXPECT_EQ(ended.index(), 1u);
			  }),
			  "true");
	EXPECT_TRUE(is_free());
	EXPECT_EQ(session.query("SELECT 1"), "1");
}

TEST_P(WithLease, EndsWithItsContext)
{
	auto own = std::make_unique<asio::io_context>();
	auto body = [&](async_lease_guard &) -> awaitable<void> {
		asio::steady_timer timer(*own, 1h);

		noted = "begun";
		co_await timer.async_wait(use_awaitable);
	};

	asio::co_spawn(*own, with_lease(session.get(), keeper, {}, body), asio::detached);
	EXPECT_TRUE(server::soon([&] {
		own->restart();
		own->poll();
		return noted == "begun";
	}));
	own.reset();
	EXPECT_TRUE(is_free());
}
#endif
