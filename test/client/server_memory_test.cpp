// What a critical section says and leaves when there is no memory for the answers.
#include <cstdio>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <sys/resource.h>
#include <unistd.h>

#include <postgres_lock/critical_section.hpp>

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
