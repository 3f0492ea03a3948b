// What is said and left when there is no memory: for the answers of a critical section, and for the
// guards of slots and leases.
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include <sys/resource.h>
#include <unistd.h>

#include <postgres_lock/critical_section.hpp>
#include <postgres_lock/lease.hpp>

#include "server.hpp"

// sanitizers need more memory than can be limited
#if defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

using pglock::critical_section;
using pglock::query;
using server::libpq_session;

namespace
{
/// After how many allocations of the thread there is no memory. Negative: never.
thread_local int allocations_left = -1;
} // namespace

#if !SANITIZED
void *
operator new(std::size_t size)
{
	if (allocations_left == 0)
		throw std::bad_alloc();
	if (allocations_left > 0)
		allocations_left--;
	if (void *memory = std::malloc(size))
		return memory;
	throw std::bad_alloc();
}

void
operator delete(void *memory) noexcept
{
	std::free(memory);
}

void
operator delete(void *memory, std::size_t) noexcept
{
	std::free(memory);
}
#endif

namespace
{
/// Leaves the process that many bytes as long as it lives.
class memory_limit
{
  public:
	explicit memory_limit(rlim_t left)
	{
		std::unique_ptr<FILE, int (*)(FILE *)> file(std::fopen("/proc/self/statm", "r"),
													std::fclose);
		unsigned long pages = 0;

		if (!file || std::fscanf(file.get(), "%lu", &pages) != 1 ||
			getrlimit(RLIMIT_AS, &before_) != 0)
			throw std::runtime_error("can't tell how much memory is used");

		rlimit now = before_;

		now.rlim_cur = pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE)) + left;
		setrlimit(RLIMIT_AS, &now);
	}

	memory_limit(const memory_limit &) = delete;
	memory_limit &operator=(const memory_limit &) = delete;

	~memory_limit()
	{
		setrlimit(RLIMIT_AS, &before_);
	}

  private:
	rlimit before_{};
};

class Memory : public testing::Test
{
  protected:
	libpq_session session;

	void
	SetUp() override
	{
		if (SANITIZED)
			GTEST_SKIP() << "their memory can't be limited";
		session.query("DROP TABLE IF EXISTS work");
		session.query("CREATE TABLE work (id int)");
	}

	/// The class of error, and its message, when there is not enough memory.
	static std::string
	outcome(const std::function<void()> &work)
	{
		try
		{
			memory_limit limit(rlim_t(64) << 20);

			work();
		}
		catch (const pglock::outcome_unknown &)
		{
			return "unknown";
		}
		catch (const pglock::connection_lost &)
		{
			return "not sent";
		}
		catch (const pglock::result_lost &failure)
		{
			return std::string("lost ") + failure.what();
		}
		catch (const std::exception &failure)
		{
			return failure.what();
		}
		return "none";
	}

	[[nodiscard]] static std::string
	rows()
	{
		return libpq_session().query("SELECT count(*) FROM work");
	}
};

const query insert("INSERT INTO work VALUES (1)");
} // namespace

TEST_F(Memory, ABufferThatCannotGrowCostsTheConnection)
{
	std::vector<query> sent(150, query("SELECT $1", {std::string(1 << 20, 'x')}));
	std::vector<query> received{"SELECT repeat('x', 200000000)"};

	// libpq reads, too, while it sends
	for (std::vector<query> *queries : {&sent, &received})
	{
		std::string expected = queries == &sent ? "not sent" : "unknown";

		queries->insert(queries->begin(), insert);
		EXPECT_EQ(outcome([&] { critical_section(session.get(), "a", {}, *queries); }), expected);
		EXPECT_TRUE(pglock::connection_ref(session.get()).lost()) << expected;
		EXPECT_THROW(session.query("INSERT INTO work VALUES (2)"), pglock::error) << expected;
		server::wait_for("pglock.is_free('a')");
		if (queries == &sent)
		{
			EXPECT_EQ(rows(), "0");
		}
		PQreset(session.get());
		EXPECT_EQ(session.query("SELECT 'well'"), "well") << expected;
	}
	EXPECT_EQ(session.query("SELECT count(*) FROM work WHERE id = 2"), "0");
}

TEST_F(Memory, ALostAnswerIsNoFailureOfTheWork)
{
	const query much("SELECT repeat('x', 1000) FROM generate_series(1, 300000)");
	std::string said =
		outcome([&] { critical_section(session.get(), "a", insert, much, "SELECT 1"); });

	EXPECT_TRUE(said.starts_with("lost the critical section of lock \"a\" is committed, but"))
		<< said;
	EXPECT_TRUE(said.ends_with("number 2")) << said;
	EXPECT_EQ(rows(), "1");
	EXPECT_EQ(session.query("SELECT 'well'"), "well");
	EXPECT_TRUE(server::is_free("a"));

	said = outcome([&] { critical_section(session.get(), "a", insert, much, "SELECT 1/0"); });
	EXPECT_FALSE(said.starts_with("lost") || said == "unknown") << said;
	EXPECT_EQ(rows(), "1") << "that was rolled back";
	EXPECT_EQ(session.query("SELECT 'well'"), "well");
}

namespace
{
/// Takes what `take` takes, with ever more memory until there is enough. After each failure nothing
/// may be left that `is_left` finds, but for so many times.
int
times_left(const std::function<void()> &take, const std::function<bool()> &is_left)
{
	int times = 0;

	for (int enough = 0;; enough++)
	{
		bool has_failed = false;

		allocations_left = enough;
		try
		{
			take();
		}
		catch (const std::bad_alloc &)
		{
			has_failed = true;
		}
		allocations_left = -1;
		if (!has_failed)
		{
			EXPECT_GT(enough, 1) << "else it was not tried";
			return times;
		}
		times += is_left();
	}
}

const std::vector<pglock::statements> all_statements{pglock::statements::unprepared,
													 pglock::statements::automatic};
} // namespace

TEST_F(Memory, ASlotThatCannotBeHadIsNotHeld)
{
	for (pglock::statements how : all_statements)
	{
		pglock::key key("memory: longer than a short string");
		pglock::options options{.timeout = std::chrono::seconds(5), .statements = how};
		auto is_left = [&] {
			return session.query("SELECT count(*) FROM pglock.locks WHERE key ~ '^memory'") != "0";
		};

		EXPECT_EQ(times_left([&] { pglock::slot_guard(session.get(), key, 2, options).unlock(); },
							 is_left),
				  0);
		EXPECT_FALSE(is_left());
	}
	EXPECT_TRUE(pglock::connection_ref(session.get()).session()->holds.empty());
}

TEST_F(Memory, ALeaseThatCannotBeHadIsNotHeld)
{
	for (pglock::statements how : all_statements)
	{
		pglock::key key("memory: longer than a short string");
		pglock::lease_options options{.ttl = std::chrono::seconds(30), .statements = how};
		auto is_left = [&] {
			return session.query("SELECT count(pglock.revoke_lease(key)) FROM pglock.leases "
								 "WHERE key ~ '^memory'") != "0";
		};

		// of an answer that could not be kept nobody knows the token
		EXPECT_LE(times_left([&] { pglock::lease_guard(session.get(), key, options).release(); },
							 is_left),
				  1);
		EXPECT_FALSE(is_left());
	}
}
