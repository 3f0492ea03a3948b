// Cancellation: whenever it comes, nothing is held, and the connection can be used.
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "async.hpp"

using async::note;
using async::outcome;
using namespace std::chrono_literals;
using pglock::async_lock;

namespace
{
class Cancellation : public async::Async
{
  protected:
	server::libpq_session other;
	server::libpq_session session;
	asio::cancellation_signal signal;
	std::string noted;

	auto
	cancellable(std::string &into)
	{
		return asio::bind_cancellation_slot(signal.slot(), note(into));
	}

	[[nodiscard]] std::string
	locks_of(const std::string &pid)
	{
		return other.query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = " +
						   pid);
	}
};

/// A completion handler that notes whether another thread ever had it in its hands.
class homely
{
  public:
	homely(bool &strayed, std::string &noted) : strayed_(&strayed), noted_(&noted)
	{
	}

	homely(homely &&other) noexcept : homely(*other.strayed_, *other.noted_)
	{
		look();
		other.look();
	}

	~homely()
	{
		look();
	}

	void
	operator()(std::exception_ptr failure, bool value)
	{
		look();
		*noted_ = outcome(failure, value);
	}

  private:
	void
	look() const noexcept
	{
		if (std::this_thread::get_id() != home_)
			*strayed_ = true;
	}

	bool *strayed_;
	std::string *noted_;
	std::thread::id home_ = std::this_thread::get_id();
};

/// Whether and how the connection is in a transaction.
struct place
{
	const char *name;
	bool in_block;
	pglock::scope scope;
};

class CancellationIn : public Cancellation, public testing::WithParamInterface<place>
{
};

INSTANTIATE_TEST_SUITE_P(, CancellationIn,
						 testing::Values(place{"Idle", false, pglock::scope::session},
										 place{"BlockSession", true, pglock::scope::session},
										 place{"BlockTransaction", true,
											   pglock::scope::transaction}),
						 [](auto &tested) { return tested.param.name; });
} // namespace

TEST_P(CancellationIn, EndsTheWait)
{
	for (auto type : {asio::cancellation_type::terminal, asio::cancellation_type::partial,
					  asio::cancellation_type::total, asio::cancellation_type::all})
	{
		pglock::guard holder(other.ref(), "a");
		async_lock lock(context, session.get(), "a", {.scope = GetParam().scope});

		if (GetParam().in_block)
		{
			session.begin();
			session.query("CREATE TEMP TABLE written AS SELECT 1");
		}
		lock.async_acquire(cancellable(noted));
		run_until_waiting();
		signal.emit(type);
		run();
		EXPECT_EQ(noted, "aborted");
		EXPECT_FALSE(lock.locked());
		if (GetParam().in_block)
		{
			EXPECT_EQ(session.query("SELECT count(*) FROM written"), "1") << "it can go on";
			session.query("DROP TABLE written");
			session.commit();
		}
		EXPECT_EQ(locks_of(server::pid_of(session)), "0");
		holder.unlock();
		EXPECT_EQ(acquire(lock), GetParam().scope == pglock::scope::session ? "true" : "25P01");
		(void)release(lock);
	}
}

TEST_F(Cancellation, AtOnceIsNotTooEarly)
{
	pglock::guard holder(other.ref(), "a");

	// the request to cancel may arrive before the command that it is for
	for (int i = 0; i < 100; i++)
	{
		async_lock lock(context, session.get(), "a");

		lock.async_acquire(cancellable(noted));
		signal.emit(asio::cancellation_type::total);
		run();
		EXPECT_EQ(noted, "aborted");
	}
}

TEST_F(Cancellation, SeveralTimesIsOnce)
{
	pglock::guard holder(other.ref(), "a");
	async_lock lock(context, session.get(), "a");

	lock.async_acquire(cancellable(noted));
	run_until_waiting();
	for (int i = 0; i < 3; i++)
	{
		signal.emit(asio::cancellation_type::total);
		context.poll_one();
	}
	run();
	EXPECT_EQ(noted, "aborted");
	EXPECT_EQ(session.query("SELECT 1"), "1");
}

TEST_F(Cancellation, DoesNotKeepWhatIsHeldFromBeingReleased)
{
	async_lock lock(context, session.get(), "a");

	EXPECT_EQ(acquire(lock), "true");
	lock.async_release(cancellable(noted));
	signal.emit(asio::cancellation_type::all);
	run();
	EXPECT_EQ(noted, "true");
	EXPECT_TRUE(server::is_free("a"));
}

TEST_F(Cancellation, LeavesTheHandlerInItsThread)
{
	pglock::guard holder(other.ref(), "a");
	// no thread but ours may touch it
	asio::io_context alone(ASIO_CONCURRENCY_HINT_UNSAFE);
	bool strayed = false;

	for (int i = 0; i < 20; i++)
	{
		async_lock lock(alone, session.get(), "a");

		noted.clear();
		lock.async_acquire(asio::bind_cancellation_slot(signal.slot(), homely(strayed, noted)));
		signal.emit(asio::cancellation_type::total);
		alone.restart();
		alone.run();
		EXPECT_EQ(noted, "aborted");
	}
	EXPECT_FALSE(strayed);
}

// Four sessions want one lock at random times, and cancel at random times: about as often before as
// after they have got it, however fast the machine is.
TEST_P(CancellationIn, AThousandTimesAtRandomLeaksNothing)
{
	struct client
	{
		server::libpq_session session;
		std::string pid = server::pid_of(session);
		asio::cancellation_signal signal;
		std::unique_ptr<async_lock> lock;
		std::unique_ptr<asio::steady_timer> timer;
	};

	constexpr int rounds = 1000;
	std::vector<client> clients(4);
	std::mt19937 random(42);
	double longest = 1500;
	int started = 0;
	int taken = 0;
	int aborted = 0;
	int holders = 0;
	std::function<void(client &)> begin;

	auto delay = [&] {
		return std::chrono::microseconds(
			std::uniform_int_distribution<long>(0, static_cast<long>(longest))(random));
	};

	auto end = [&](client &each) {
		if (GetParam().in_block)
			each.session.commit();
		EXPECT_EQ(locks_of(each.pid), "0");
		begin(each);
	};

	begin = [&](client &each) {
		if (started++ >= rounds)
			return;
		if (GetParam().in_block)
			each.session.begin();
		each.lock = std::make_unique<async_lock>(context, each.session.get(), "a",
												 pglock::options{.scope = GetParam().scope});
		each.timer = std::make_unique<asio::steady_timer>(context, delay());
		each.timer->async_wait([&](std::error_code error) {
			if (!error)
				each.signal.emit(asio::cancellation_type::total);
		});
		each.lock->async_acquire(
			asio::bind_cancellation_slot(each.signal.slot(), [&](std::exception_ptr failure,
																 bool is_taken) {
				std::string what = outcome(failure, is_taken);

				each.timer->cancel();
				EXPECT_EQ(each.lock->locked(), what == "true");
				if (what == "aborted")
				{
					aborted++;
					longest *= 1.02;
					EXPECT_EQ(locks_of(each.pid), "0") << "right after the cancellation";
					return end(each);
				}
				EXPECT_EQ(what, "true");
				EXPECT_EQ(++holders, 1);
				taken++;
				longest *= 0.98;
				each.timer->expires_after(delay() / 4);
				each.timer->async_wait([&](std::error_code) {
					holders--;
					if (GetParam().scope == pglock::scope::transaction)
						return end(each);
					each.lock->async_release([&](std::exception_ptr error, bool released) {
						EXPECT_EQ(outcome(error, released), "true");
						end(each);
					});
				});
			}));
	};
	for (client &each : clients)
		begin(each);
	run();
	EXPECT_EQ(taken + aborted, rounds);
	EXPECT_GT(taken, rounds / 20);
	EXPECT_GT(aborted, rounds / 20);
	EXPECT_TRUE(server::is_free("a"));
}
