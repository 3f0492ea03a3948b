// When a keeper renews, over which connection, and when it requests stop.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include <gtest/gtest.h>
#include <postgres_lock/keeper.hpp>

#include "fake.hpp"
#include "soon.hpp"
#include "stop.hpp"

using namespace std::chrono_literals;
using pglock::boot_clock;
using pglock::keeper;
using pglock::lease;
using texts = std::vector<std::string>;

static_assert(!std::is_copy_constructible_v<keeper> && !std::is_move_constructible_v<keeper>);
static_assert(!std::is_copy_constructible_v<pglock::kept>);
static_assert(std::is_nothrow_move_constructible_v<pglock::kept>);
static_assert(std::is_nothrow_move_assignable_v<pglock::kept>);

namespace
{
class Keeper : public testing::Test
{
  protected:
	/// A lease that was taken elsewhere.
	static lease
	take(std::chrono::milliseconds ttl, const std::string &key = "a")
	{
		fake::connection connection;

		connection.answer("42");
		return lease::acquire(connection, key, {.ttl = ttl}).value();
	}

	/// For a keeper: makes connections that answer so, and notes when.
	std::function<pglock::connection_ref()>
	connect_to(std::function<pglock::reply()> server)
	{
		return [this, server = std::move(server)]() -> pglock::connection_ref {
			auto made = std::make_unique<fake::connection>();

			connections++;
			for (int i = 0; i < 10000; i++)
				made->answer([this, server] {
					{
						std::lock_guard guard(mutex_);
						renewals_.push_back(boot_clock::now());
					}
					return server();
				});
			return made;
		};
	}

	std::vector<boot_clock::time_point>
	renewals()
	{
		std::lock_guard guard(mutex_);

		return renewals_;
	}

	std::atomic<int> connections = 0;

  private:
	std::mutex mutex_;
	std::vector<boot_clock::time_point> renewals_;
};

pglock::reply
granted()
{
	return "t";
}
} // namespace

TEST(RenewalPlan, SaysWhatIsToBeDoneWhen)
{
	using namespace pglock::detail;
	using outcome = renewal_outcome;

	lease held("a", 42, {.ttl = 60s});
	auto now = boot_clock::now();

	EXPECT_LT(first_renewal_of(held), now) << "nobody knows when it was taken";
	held.state()->mark_held_since(now);
	EXPECT_EQ(first_renewal_of(held), now + 20s);
	EXPECT_EQ(stop_time(held, usual_margin(held)), now + 54s);
	EXPECT_EQ(pause_after(outcome::renewed, held), 20s);
	EXPECT_EQ(pause_after(outcome::failed, held), 3s);
	EXPECT_GT(pause_after(outcome::lost, held), 1000h);
	EXPECT_EQ(renewal_limit(held), 15s);
	EXPECT_GT(54s,
			  20s + renewal_limit(held) + pause_after(outcome::failed, held) + renewal_limit(held))
		<< "one renewal may have no answer";
	held.state()->mark_lost();
	EXPECT_LT(stop_time(held, 0ms), now);
}

TEST(RenewalPlan, SleepsInSlices)
{
	using pglock::detail::wait_until;

	auto now = boot_clock::now();

	EXPECT_EQ(wait_until(now + 10ms, now), 10ms);
	EXPECT_EQ(wait_until(now + 1h, now), 250ms);
	EXPECT_EQ(wait_until(boot_clock::time_point::max(), now), 250ms);
	EXPECT_EQ(wait_until(now, now), 0ms);
	EXPECT_EQ(wait_until(now - 1h, now), 0ms);
}

TEST_F(Keeper, RenewsManyInTimeOverOneConnection)
{
	constexpr auto ttl = 1500ms;
	std::vector<lease> held;
	std::vector<pglock::kept> kept;
	keeper keeper(connect_to(granted));

	for (int i = 0; i < 20; i++)
		held.push_back(take(ttl, std::to_string(i)));
	for (const lease &each : held)
		kept.push_back(keeper.keep(each));

	auto first = held.front().deadline();

	EXPECT_TRUE(soon([&] { return held.front().deadline() > first + ttl; }));
	for (std::size_t i = 0; i < held.size(); i++)
	{
		EXPECT_FALSE(held[i].expired()) << i;
		EXPECT_FALSE(kept[i].stop_token().stop_requested()) << i;
	}
	EXPECT_EQ(connections, 1);
	EXPECT_LT(renewals().size(), 20u * 8) << "at a third of the ttl";
}

TEST_F(Keeper, RenewsWhatIsOverdueAtOnce)
{
	lease adopted("a", 42, {.ttl = 1h});
	keeper keeper(connect_to(granted));
	pglock::kept kept = keeper.keep(adopted);

	EXPECT_TRUE(soon([&] { return !adopted.expired(); }));
	EXPECT_EQ(renewals().size(), 1u);
}

TEST_F(Keeper, HearsOfNewLeasesAtOnce)
{
	keeper keeper(connect_to([] { return "f"; }));
	pglock::kept other = keeper.keep(take(1h));
	auto fastest = boot_clock::duration::max();

	// the first may meet the thread before it sleeps
	for (int i = 0; i < 5; i++)
	{
		auto start = boot_clock::now();
		pglock::kept lost = keeper.keep(lease("a", 42));
		auto time = stop_of(lost.stop_token()) - start;

		if (i > 0)
			fastest = std::min(fastest, time);
	}
	EXPECT_LT(fastest, 100ms);
	EXPECT_FALSE(other.stop_token().stop_requested());
}

TEST_F(Keeper, RequestsStopWhenARenewalIsRefused)
{
	keeper keeper(connect_to([] { return "f"; }), {.margin = 0ms});
	lease held = take(3s);
	auto deadline = held.deadline();
	pglock::kept kept = keeper.keep(held);

	EXPECT_LT(stop_of(kept.stop_token()), deadline);
	EXPECT_TRUE(held.expired());
	EXPECT_EQ(renewals().size(), 1u) << "nobody asks again";
}

TEST_F(Keeper, RequestsStopInTimeWhenItCannotConnect)
{
	std::mutex mutex;
	texts heard;
	keeper keeper([]() -> pglock::connection_ref { throw std::runtime_error("no network"); },
				  {.margin = 2s,
				   .renewal_failed = [&](const lease &, const std::exception &failure) {
					   std::lock_guard guard(mutex);
					   heard.emplace_back(failure.what());
					   throw failure;
				   }});
	lease held = take(3s);
	pglock::kept kept = keeper.keep(held);
	auto stopped = stop_of(kept.stop_token());

	EXPECT_GE(stopped, held.deadline() - 2s);
	EXPECT_LT(stopped, held.deadline());
	EXPECT_TRUE(soon([&] {
		std::lock_guard guard(mutex);
		return heard.size() > 2;
	})) << "it goes on trying";
	EXPECT_EQ(heard[0], "no network");
}

TEST_F(Keeper, GoesOnWhenWhatIsNoExceptionIsThrown)
{
	std::atomic<int> tries = 0;
	auto network = connect_to(granted);
	keeper keeper([&] {
		if (tries++ == 0)
			throw 42;
		return network();
	});
	lease held = take(1500ms);
	auto deadline = held.deadline();
	pglock::kept kept = keeper.keep(held);

	EXPECT_TRUE(soon([&] { return held.deadline() > deadline; }));
	EXPECT_FALSE(kept.stop_token().stop_requested());
}

TEST_F(Keeper, RequestsStopInTimeWhenConnectingBlocks)
{
	std::promise<void> ends;
	auto network = connect_to(granted);
	keeper keeper(
		[&] {
			ends.get_future().wait();
			return network();
		},
		{.margin = 2s});
	lease held = take(3s);
	pglock::kept kept = keeper.keep(held);

	EXPECT_LT(stop_of(kept.stop_token()), held.deadline());
	ends.set_value();
	EXPECT_TRUE(soon([&] { return !renewals().empty(); }));
	EXPECT_TRUE(kept.stop_token().stop_requested()) << "it stays so";
}

TEST_F(Keeper, ConnectsAgainAfterALoss)
{
	std::atomic<int> failures = 0;
	keeper keeper(connect_to([&]() -> pglock::reply {
		if (failures++ == 0)
			throw pglock::connection_lost("gone");
		if (failures == 2)
			throw pglock::error("canceled", "57014");
		return "t";
	}));
	lease held = take(1500ms);
	auto deadline = held.deadline();
	pglock::kept kept = keeper.keep(held);

	EXPECT_TRUE(soon([&] { return held.deadline() > deadline; }));
	EXPECT_EQ(connections, 2) << "only after a loss";
	EXPECT_FALSE(kept.stop_token().stop_requested());
}

TEST_F(Keeper, ForgetsWhatIsNotKeptAnyMore)
{
	std::optional<pglock::kept> kept;
	std::stop_token token;
	{
		keeper keeper(connect_to(granted));
		{
			pglock::kept dropped = keeper.keep(take(300ms));
		}
		kept.emplace(keeper.keep(take(1h)));
		token = kept->stop_token();

		pglock::kept moved = std::move(*kept);

		EXPECT_THROW((void)kept->stop_token(), std::logic_error);
		*kept = std::move(moved);
		std::this_thread::sleep_for(400ms);
	}
	EXPECT_TRUE(renewals().empty());
	EXPECT_EQ(connections, 0) << "nobody needed one";
	EXPECT_FALSE(token.stop_requested()) << "those who are to stop are not told";
	kept.reset();
}

TEST_F(Keeper, EndsWhileARenewalIsUnderWay)
{
	std::promise<void> under_way;
	std::promise<void> ends;
	std::thread server;
	lease held = take(300ms);
	std::optional<pglock::kept> kept;
	{
		keeper keeper(connect_to([&]() -> pglock::reply {
			under_way.set_value();
			ends.get_future().wait();
			return "t";
		}));

		kept.emplace(keeper.keep(held));
		under_way.get_future().wait();
		server = std::thread([&] {
			std::this_thread::sleep_for(20ms);
			ends.set_value();
		});
	}
	EXPECT_EQ(renewals().size(), 1u);
	server.join();
}

TEST_F(Keeper, MayBeCalledByThoseWhoAreToldToStop)
{
	lease held = take(1h);
	keeper keeper(connect_to(granted));
	std::optional<pglock::kept> kept(keeper.keep(lease("a", 42)));
	std::optional<pglock::kept> next;
	std::promise<void> called;
	std::stop_callback call(kept->stop_token(), [&] {
		next.emplace(keeper.keep(held));
		called.set_value();
	});

	called.get_future().wait();
	kept.reset();
	EXPECT_FALSE(next->stop_token().stop_requested());
}
