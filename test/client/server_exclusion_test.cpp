// Who holds a lock keeps the others out: of other sessions, threads and processes, until it ends.
#include <atomic>
#include <csignal>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "server.hpp"

using namespace std::chrono_literals;

namespace
{
template <typename Way> class Exclusion : public server::Behaviour<Way>
{
  protected:
	using typename server::Behaviour<Way>::place;

	/// Many sessions, each in a thread, take the lock often. The most that held it at once.
	int
	most_at_once(const pglock::options &options)
	{
		std::atomic<int> inside = 0;
		std::atomic<int> most = 0;
		std::vector<std::thread> threads;

		for (int i = 0; i < 4; i++)
			threads.emplace_back([&] {
				place place;

				for (int round = 0; round < 25; round++)
				{
					pglock::guard guard(place.ref(), "crowd", options);
					int now = ++inside;

					for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);)
						;
					std::this_thread::sleep_for(200us);
					--inside;
					guard.unlock();
					place.finish();
				}
			});
		for (std::thread &thread : threads)
			thread.join();
		return most;
	}

	/// A process that takes the lock, and then neither does nor ends anything.
	static pid_t
	start_holder(const std::string &key)
	{
		int ends[2];
		char held = 0;

		if (pipe(ends) != 0)
			throw std::runtime_error("no pipe");

		pid_t child = fork();

		if (child == 0)
		{
			try
			{
				place place;
				pglock::guard guard(place.ref(), key, server::Behaviour<Way>::with());

				if (write(ends[1], "h", 1) == 1)
					pause();
			}
			catch (...)
			{
			}
			_exit(1);
		}
		close(ends[1]);
		if (read(ends[0], &held, 1) != 1)
			throw std::runtime_error("the process does not hold the lock");
		close(ends[0]);
		return child;
	}
};

TYPED_TEST_SUITE(Exclusion, server::ways, server::way_names);
} // namespace

TYPED_TEST(Exclusion, KeepsOthersOutUntilItEnds)
{
	typename TestFixture::place holder;
	typename TestFixture::place other;
	pglock::lock lock(other.ref(), "door", this->with());
	{
		pglock::guard guard(holder.ref(), "door", this->with());

		EXPECT_FALSE(server::is_free("door"));
		EXPECT_FALSE(lock.try_acquire());
		EXPECT_FALSE(lock.acquire(20ms));
		EXPECT_THROW(pglock::guard late(other.ref(), "door", this->with({.timeout = 1ms})),
					 pglock::timeout_error);
	}
	holder.finish();
	EXPECT_TRUE(lock.try_acquire());
	lock.release();
	other.finish();
	EXPECT_TRUE(server::is_free("door"));
}

TYPED_TEST(Exclusion, NeverTwoAtOnce)
{
	EXPECT_EQ(this->most_at_once(this->with()), 1);
	EXPECT_TRUE(server::is_free("crowd"));
}

TYPED_TEST(Exclusion, SharedHoldersAreTogether)
{
	EXPECT_GT(this->most_at_once(this->with({.shared = true})), 1)
		<< "else the test above sees nothing";
}

TYPED_TEST(Exclusion, AKilledProcessLeavesNothing)
{
	pid_t process = this->start_holder("killed");
	typename TestFixture::waiter waiter("killed");

	server::wait_for_waiters();
	kill(process, SIGKILL);
	EXPECT_EQ(waiter.outcome(), "held");
	waitpid(process, nullptr, 0);
}

TYPED_TEST(Exclusion, NoReaderOvertakesAWaitingWriter)
{
	auto shared = this->with({.shared = true});
	typename TestFixture::place first;
	typename TestFixture::place second;
	std::optional<pglock::guard> reader(std::in_place, first.ref(), "book", shared);
	typename TestFixture::waiter writer("book");

	server::wait_for_waiters();
	{
		pglock::lock late(second.ref(), "book", shared);

		EXPECT_FALSE(late.try_acquire());
	}
	reader.reset();
	first.finish();
	EXPECT_EQ(writer.outcome(), "held");
}

TYPED_TEST(Exclusion, AWaitingReaderGetsItsTurn)
{
	typename TestFixture::place first;
	std::optional<pglock::guard> writer(std::in_place, first.ref(), "book", this->with());
	typename TestFixture::waiter reader("book", this->with({.shared = true}));

	server::wait_for_waiters();
	writer.reset();
	first.finish();

	// the writer comes back at once, and has to queue
	pglock::lock again(first.ref(), "book", this->with());

	EXPECT_EQ(reader.outcome(), "held");
	EXPECT_FALSE(again.try_acquire());
}

TYPED_TEST(Exclusion, SeveralAreTakenTogetherOrNotAtAll)
{
	std::vector<pglock::key> odd{"plain", "a \"b\" \\ {,}'$1", "NULL", ""};
	typename TestFixture::place holder;
	typename TestFixture::place other;
	{
		pglock::guard one(holder.ref(), odd[1], this->with());

		EXPECT_THROW(pglock::guard all(other.ref(), odd, this->with({.timeout = 1ms})),
					 pglock::timeout_error);
		EXPECT_TRUE(server::is_free("plain"));
	}
	holder.finish();
	{
		pglock::guard all(other.ref(), odd, this->with());

		for (const pglock::key &each : odd)
			EXPECT_THROW(pglock::guard one(holder.ref(), each, this->with({.timeout = 0ms})),
						 pglock::timeout_error);
	}
	other.finish();
	EXPECT_NO_THROW(pglock::guard all(holder.ref(), odd, this->with({.timeout = 0ms})));
}
