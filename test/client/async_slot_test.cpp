// Slots without waiting in the thread: taken, refused, cancelled, and around a coroutine.
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "async.hpp"
#include "handler.hpp"

using namespace std::chrono_literals;
using async::outcome;
using pglock::async_slot_guard;

static_assert(!std::is_copy_constructible_v<async_slot_guard>);
static_assert(std::is_nothrow_move_constructible_v<async_slot_guard>);
static_assert(!std::is_convertible_v<async_slot_guard &, pglock::async_guard &>,
			  "a slot has no token");

namespace
{
class AsyncSlot : public async::Async
{
  protected:
	server::libpq_session session;
	server::libpq_session other;
	failures heard;
	std::string noted;
	std::optional<async_slot_guard> got;

	auto
	keep_guard()
	{
		return [this](std::exception_ptr failure, async_slot_guard guard) {
			noted = outcome(failure);
			if (!failure)
				got.emplace(std::move(guard));
		};
	}

	std::string
	acquire(int slots, const pglock::options &options = {})
	{
		pglock::async_acquire_slot(context, session.get(), "pool", slots, options, keep_guard());
		run();
		return noted;
	}

	[[nodiscard]] bool
	is_free(int slots)
	{
		try
		{
			return pglock::slot_guard(other.get(), "pool", slots, {.timeout = 0s}).locked();
		}
		catch (const pglock::timeout_error &)
		{
			return false;
		}
	}
};
} // namespace

TEST_F(AsyncSlot, TakesAndReleases)
{
	EXPECT_EQ(acquire(1, {.timeout = 5s}), "true");
	EXPECT_EQ(got->slot(), 1);
	EXPECT_TRUE(got->locked());
	EXPECT_FALSE(got->lost());
	EXPECT_FALSE(is_free(1));
	got->async_unlock(async::note(noted));
	run();
	EXPECT_EQ(noted, "true");
	EXPECT_FALSE(got->locked());
	EXPECT_TRUE(is_free(1));
}

TEST_F(AsyncSlot, ReleasesAtItsEnd)
{
	EXPECT_EQ(acquire(1), "true");
	got.reset();
	EXPECT_TRUE(is_free(1));
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(AsyncSlot, OneThatHoldsNothingSaysSo)
{
	async_slot_guard none;

	EXPECT_FALSE(none.locked() || none.lost());
	EXPECT_THROW((void)none.slot(), std::logic_error);
	EXPECT_THROW(none.async_unlock(async::note(noted)), std::logic_error);
	EXPECT_EQ(acquire(2), "true");
	none = std::move(*got);
	EXPECT_FALSE(got->locked());
	EXPECT_TRUE(none.locked());
}

TEST_F(AsyncSlot, TellsOfARefusal)
{
	pglock::slot_guard holder(other.get(), "pool", 1);

	EXPECT_EQ(acquire(1, {.timeout = 1ms}), "timeout");
	EXPECT_EQ(acquire(1, {.timeout = 0s}), "timeout");
	EXPECT_EQ(acquire(0), "22023");
	EXPECT_EQ(acquire(1, {.scope = pglock::scope::transaction}), "25P01");
	EXPECT_THROW(acquire(1, {.shared = true}), std::invalid_argument);
	session.begin();
	EXPECT_EQ(acquire(1, {.timeout = 1ms}), "timeout");
	EXPECT_EQ(session.query("SELECT 'well'"), "well");
	EXPECT_FALSE(got);
}

TEST_F(AsyncSlot, ACancelledWaitHoldsNothing)
{
	for (auto scope : {pglock::scope::session, pglock::scope::transaction})
		for (bool in_block : {scope == pglock::scope::transaction, true})
		{
			std::optional<pglock::slot_guard> holder(std::in_place, other.get(), "pool", 1);
			asio::cancellation_signal signal;

			if (in_block)
				session.begin();
			pglock::async_acquire_slot(context, session.get(), "pool", 1, {.scope = scope},
									   asio::bind_cancellation_slot(signal.slot(), keep_guard()));
			run_until("EXISTS (SELECT FROM pglock.locks WHERE key = 'pool' AND NOT granted)");
			signal.emit(asio::cancellation_type::all);
			run();
			EXPECT_EQ(noted, "aborted");
			holder.reset();
			EXPECT_TRUE(is_free(1));
			EXPECT_EQ(session.query("SELECT 'well'"), "well") << "a transaction goes on";
			session.query("ROLLBACK");
		}
	EXPECT_FALSE(got);
}

TEST_F(AsyncSlot, AWaitEndsWithARelease)
{
	std::optional<pglock::slot_guard> first(std::in_place, other.get(), "pool", 2);
	pglock::slot_guard second(other.get(), "pool", 2);
	int freed = first->slot();

	pglock::async_acquire_slot(context, session.get(), "pool", 2, {}, keep_guard());
	run_until("EXISTS (SELECT FROM pglock.locks WHERE key = 'pool' AND NOT granted)");
	first.reset();
	run();
	EXPECT_EQ(noted, "true");
	EXPECT_EQ(got->slot(), freed);
}

#if defined(POSTGRES_LOCK_HAS_CO_AWAIT)
namespace
{
using asio::awaitable;

class SlotCoroutine : public AsyncSlot
{
};
} // namespace

TEST_F(SlotCoroutine, IsTakenAndReleased)
{
	EXPECT_EQ(result_of([&]() -> awaitable<void> {
				  auto guard =
					  co_await pglock::async_acquire_slot(context, session.get(), "pool", 1,
														  {.timeout = 5s}, asio::use_awaitable);

				  EXPECT_EQ(guard.slot(), 1);
				  EXPECT_TRUE(co_await guard.async_unlock(asio::use_awaitable));
				  EXPECT_TRUE(is_free(1));
			  }),
			  "true");
}

TEST_F(SlotCoroutine, WithSlotTellsTheBodyItsNumber)
{
	EXPECT_EQ(result_of([&]() -> awaitable<void> {
				  int slot =
					  co_await pglock::with_slot(session.get(), "pool", 1, {.timeout = 5s},
												 [&](async_slot_guard &guard) -> awaitable<int> {
													 EXPECT_TRUE(guard.locked());
													 EXPECT_FALSE(is_free(1));
													 co_return guard.slot();
												 });

				  EXPECT_EQ(slot, 1);
				  EXPECT_TRUE(is_free(1));
				  co_await pglock::with_slot(session.get(), "pool", 1, {},
											 [&]() -> awaitable<void> {
												 EXPECT_FALSE(is_free(1));
												 co_return;
											 });
			  }),
			  "true");
	EXPECT_TRUE(is_free(1));
}

TEST_F(SlotCoroutine, WithSlotRollsBackAndReleasesAfterAnException)
{
	session.query("CREATE TEMP TABLE written (n int)");
	EXPECT_EQ(result_of([&]() -> awaitable<void> {
				  co_await pglock::with_slot(session.get(), "pool", 1, {},
											 [&](async_slot_guard &) -> awaitable<void> {
												 session.begin();
												 session.query("INSERT INTO written VALUES (1)");
												 throw std::runtime_error("broken");
												 co_return;
											 });
			  }),
			  "broken");
	EXPECT_EQ(session.query("SELECT count(*) FROM written"), "0");
	EXPECT_TRUE(is_free(1));
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(SlotCoroutine, WithSlotMayBeTooLate)
{
	pglock::slot_guard holder(other.get(), "pool", 1);

	EXPECT_EQ(result_of([&]() -> awaitable<void> {
				  co_await pglock::with_slot(session.get(), "pool", 1, {.timeout = 1ms},
											 []() -> awaitable<void> {
												 ADD_FAILURE();
												 co_return;
											 });
			  }),
			  "timeout");
}

TEST_F(SlotCoroutine, WithLockTellsTheBodyItsToken)
{
	EXPECT_EQ(result_of([&]() -> awaitable<void> {
				  std::int64_t token = co_await pglock::with_lock(
					  session.get(), "a", {},
					  [&](pglock::async_guard &guard) -> awaitable<std::int64_t> {
						  EXPECT_TRUE(guard.locked());
						  EXPECT_FALSE(guard.lost());
						  co_return co_await guard.async_token(asio::use_awaitable);
					  });

				  EXPECT_GT(token, 0);
				  co_await pglock::with_lock(session.get(), "a", {},
											 [&](pglock::async_guard &guard) -> awaitable<void> {
												 co_await guard.async_unlock(asio::use_awaitable);
												 EXPECT_TRUE(server::is_free("a"));
											 });
			  }),
			  "true");
	EXPECT_TRUE(server::is_free("a"));
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(SlotCoroutine, AMemberFunctionMayTakeTheGuard)
{
	struct job
	{
		bool has_run = false;

		awaitable<void>
		operator()(pglock::async_guard &guard)
		{
			has_run = guard.locked();
			co_return;
		}
	};

	EXPECT_EQ(result_of([&]() -> awaitable<void> {
				  job job;

				  co_await pglock::with_lock(session.get(), "a", {}, std::ref(job));
				  EXPECT_TRUE(job.has_run);
			  }),
			  "true");
}
#endif
