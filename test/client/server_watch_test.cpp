// The end of a session is noticed while its thread does something else.
#include <chrono>
#include <filesystem>
#include <future>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <sys/resource.h>
#include <system_error>
#include <unistd.h>
#include <utility>
#include <vector>

#include <postgres_lock/cluster.hpp>

#include "child.hpp"
#include "fake.hpp"
#include "server.hpp"
#include "stop.hpp"

using namespace std::chrono_literals;

namespace
{
template <typename Way> class Watched : public server::Behaviour<Way>
{
};

TYPED_TEST_SUITE(Watched, server::ways, server::way_names);

/// How many there are of what a folder of the kernel lists, such as open files.
[[nodiscard]] long
count_of(const char *folder)
{
	return std::distance(std::filesystem::directory_iterator(folder), {});
}

/// Those of the program itself.
const long usual_threads = count_of("/proc/self/task");

/// Do all who have watched go away?
[[nodiscard]] bool
all_threads_end()
{
	return soon([] { return count_of("/proc/self/task") == usual_threads; });
}

#if !defined(__SANITIZE_ADDRESS__)
/// Leaves this process so few files to open, as long as it lives.
class few_files
{
  public:
	explicit few_files(int left)
	{
		rlimit limit{};

		getrlimit(RLIMIT_NOFILE, &before_);
		limit = {64, before_.rlim_max};
		setrlimit(RLIMIT_NOFILE, &limit);
		for (int file = dup(0); file >= 0; file = dup(0))
			taken_.push_back(file);
		for (; left > 0; left--)
			close_one();
	}

	few_files(const few_files &) = delete;
	few_files &operator=(const few_files &) = delete;

	~few_files()
	{
		while (!taken_.empty())
			close_one();
		setrlimit(RLIMIT_NOFILE, &before_);
	}

  private:
	void
	close_one()
	{
		close(taken_.back());
		taken_.pop_back();
	}

	rlimit before_{};
	std::vector<int> taken_;
};
#endif
} // namespace

TYPED_TEST(Watched, StopIsRequestedOfEachObjectOnTheSession)
{
	typename TestFixture::place place;
	pglock::guard guard(place.ref(), "guard", this->with());
	pglock::slot_guard slot(place.ref(), "slot", 1, this->with());
	pglock::lock lock(place.ref(), "lock", this->with());
	pglock::mutex mutex(place.ref(), "mutex", this->with());
	std::stop_token stops[] = {guard.stop_token(), slot.stop_token(), lock.stop_token(),
							   mutex.stop_token()};

	EXPECT_EQ(place.query("SELECT 1"), "1") << "the connection can be used";
	for (const std::stop_token &stop : stops)
		EXPECT_FALSE(stop.stop_requested());

	std::string pid = server::pid_of(place);
	auto ended = pglock::boot_clock::now();

	server::terminate(pid);
	for (const std::stop_token &stop : stops)
		EXPECT_LT(stop_of(stop) - ended, 10s);
	EXPECT_TRUE(guard.stop_token().stop_requested()) << "and whoever asks later";
}

TYPED_TEST(Watched, NobodyWatchesBeforeItIsAskedForNorAfterTheEnd)
{
	typename TestFixture::place place;

	ASSERT_TRUE(all_threads_end()) << "of the tests before";

	long files = count_of("/proc/self/fd");
	std::stop_token stop;
	{
		pglock::guard guard(place.ref(), "guard", this->with());

		EXPECT_EQ(count_of("/proc/self/task"), usual_threads);
		stop = guard.stop_token();
		EXPECT_EQ(count_of("/proc/self/task"), usual_threads + 1);
		(void)guard.stop_token();
		EXPECT_EQ(count_of("/proc/self/task"), usual_threads + 1);
	}
	EXPECT_TRUE(all_threads_end());
	EXPECT_EQ(count_of("/proc/self/fd"), files);
	EXPECT_FALSE(stop.stop_requested());
	EXPECT_EQ(place.query("SELECT 1"), "1") << "the connection has not been touched";
}

TYPED_TEST(Watched, OneWhoseSessionIsKnownToHaveEndedIsStoppedAtOnce)
{
	typename TestFixture::place place;
	pglock::guard guard(place.ref(), "guard", this->with());

	server::terminate(server::pid_of(place));
	EXPECT_TRUE(soon([&] { return guard.lost(); }));
	EXPECT_TRUE(guard.stop_token().stop_requested());
}

TEST(WatchedSession, HearsOfItsEndThoughAnAnswerIsUnread)
{
	server::libpq_session session;
	std::string pid = server::pid_of(session);
	pglock::guard guard(session.get(), "guard");
	std::stop_token stop = guard.stop_token();
	std::promise<pglock::boot_clock::time_point> heard;
	std::stop_callback note(stop, [&] { heard.set_value(pglock::boot_clock::now()); });

	ASSERT_EQ(PQsendQuery(session.get(), "SELECT 1"), 1);
	server::wait_for("state = 'idle' AND query = 'SELECT 1' FROM pg_stat_activity WHERE pid = " +
					 pid);
	EXPECT_FALSE(stop.stop_requested()) << "the answer is no end";

	auto ended = pglock::boot_clock::now();

	server::terminate(pid);
	(void)stop_of(stop);
	EXPECT_GE(heard.get_future().get(), ended);
}

TEST(WatchedSession, EndsWithTheConnection)
{
	server::libpq_session session;
	std::string pid = server::pid_of(session);
	pglock::guard guard(session.get(), "guard");
	std::stop_token stop = guard.stop_token();

	session.close();
	EXPECT_TRUE(stop.stop_requested());
	server::wait_for("count(*) = 0 FROM pg_stat_activity WHERE pid = " + pid);
	EXPECT_TRUE(guard.stop_token().stop_requested());
}

TEST(WatchedSession, EndsWhenTheConnectionGetsAnother)
{
	server::libpq_session session;
	pglock::guard guard(session.get(), "guard");
	std::stop_token stop = guard.stop_token();

	PQreset(session.get());
	EXPECT_TRUE(stop.stop_requested());
	EXPECT_EQ(session.query("SELECT 1"), "1") << "the new one goes on";
	server::wait_for("pglock.is_free('guard')");
}

TEST(WatchedSession, OfAClusterGuardIsWatchedAfterItHasMoved)
{
	server::libpq_session session;
	pglock::cluster servers{session.ref()};
	pglock::cluster_guard first(servers, "first");
	pglock::cluster_guard second(servers, "second");
	std::stop_token stop = second.stop_token();

	first = std::move(second);
	EXPECT_FALSE(stop.stop_requested());
	server::terminate(server::pid_of(session));
	(void)stop_of(stop);
	EXPECT_TRUE(first.stop_token().stop_requested());
}

TEST(WatchedSession, OfTheParentGoesOnWhenAChildHasEndedItsCopies)
{
	server::libpq_session session;
	std::optional<pglock::guard> guard(std::in_place, session.get(), "guard");
	std::stop_token stop = guard->stop_token();

	EXPECT_TRUE(in_child([&] {
		guard.reset();
		return true;
	}));
	EXPECT_EQ(session.query("SELECT pglock.held('guard')"), "t");
	EXPECT_FALSE(stop.stop_requested());
	server::terminate(server::pid_of(session));
	(void)stop_of(stop);
}

TEST(WatchedSession, IsNotWatchedByAChild)
{
	server::libpq_session session;

	ASSERT_TRUE(all_threads_end()) << "of the tests before, which close files";

	long files = count_of("/proc/self/fd");
	std::optional<pglock::guard> guard(std::in_place, session.get(), "guard");

	EXPECT_FALSE(guard->stop_token().stop_requested());
	EXPECT_TRUE(in_child([&] { return guard->stop_token().stop_requested(); }))
		<< "there it holds nothing";
	EXPECT_TRUE(in_child([&] {
		guard.reset();
		return count_of("/proc/self/fd") == files;
	})) << "its copies of the files are closed";
}

#if !defined(__SANITIZE_ADDRESS__) // sanitizers look at errors with files of their own
TEST(WatchedSession, IsNotWatchedWithoutFiles)
{
	server::libpq_session session;
	pglock::guard guard(session.get(), "guard");

	ASSERT_TRUE(all_threads_end()) << "of the tests before, which close files";

	long files = count_of("/proc/self/fd");

	for (int left = 0; left < 3; left++)
	{
		few_files few(left);

		EXPECT_THROW((void)guard.stop_token(), std::system_error);
	}
	EXPECT_EQ(count_of("/proc/self/fd"), files);
	EXPECT_TRUE(guard.locked());
	EXPECT_FALSE(guard.stop_token().stop_requested()) << "later it is";
}
#endif

TEST(WatchedSession, IsRefusedWithoutASocket)
{
	fake::connection connection;
	pglock::guard guard(connection, "guard");

	EXPECT_THROW((void)guard.stop_token(), std::logic_error);
	connection.lost = true;
	EXPECT_TRUE(guard.stop_token().stop_requested()) << "what has ended needs none";
}
