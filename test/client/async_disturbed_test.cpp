// Others who use the connection while an operation is under way: it ends, and the books are right.
#include <memory>
#include <optional>
#include <string>

#include <sys/wait.h>
#include <unistd.h>

#include "async.hpp"

using async::note;
using namespace std::chrono_literals;
using pglock::async_lock;

namespace
{
class Disturbed : public async::Async
{
  protected:
	server::libpq_session other;
	std::optional<pglock::guard> holder{std::in_place, other.ref(), "a"};
	server::libpq_session session;
	std::string noted;

	/// Begins to wait, and lets the server grant the lock.
	void
	wait_and_grant(async_lock &lock)
	{
		lock.async_acquire(note(noted));
		run_until_waiting();
		holder.reset();
	}

	void
	expect_failed_and_free(const async_lock &lock)
	{
		EXPECT_NE(noted.find("another command"), std::string::npos) << noted;
		EXPECT_FALSE(lock.locked());
		EXPECT_TRUE(server::is_free("a"));
		EXPECT_EQ(PQisnonblocking(session.get()), 0);
		EXPECT_EQ(session.query("SELECT 1"), "1");
	}
};
} // namespace

TEST_F(Disturbed, ByACommandTheWaitFailsAndNothingIsHeld)
{
	async_lock lock(context, session.get(), "a");

	wait_and_grant(lock);
	EXPECT_EQ(session.query("SELECT 42"), "42");
	run();
	expect_failed_and_free(lock);
	EXPECT_EQ(acquire(lock), "true");
	EXPECT_EQ(release(lock), "true");
}

TEST_F(Disturbed, NotByAProcessThatIsForkedMeanwhile)
{
	async_lock lock(context, session.get(), "a");
	int status = 0;

	lock.async_acquire(note(noted));
	run_until_waiting();
	context.notify_fork(asio::io_context::fork_prepare);

	pid_t child = fork();

	if (child == 0)
	{
		context.notify_fork(asio::io_context::fork_child);
		std::destroy_at(&context); // and with it the operation
		_exit(0);
	}
	context.notify_fork(asio::io_context::fork_parent);
	ASSERT_EQ(waitpid(child, &status, 0), child);
	EXPECT_EQ(status, 0);
	holder.reset();
	run();
	EXPECT_EQ(noted, "true") << "the child has not touched the connection";
	EXPECT_EQ(session.query("SELECT 1"), "1");
	EXPECT_EQ(release(lock), "true");
}

TEST_F(Disturbed, InATransactionToo)
{
	for (auto scope : {pglock::scope::session, pglock::scope::transaction})
	{
		async_lock lock(context, session.get(), "a", {.scope = scope});

		holder.reset();
		holder.emplace(other.ref(), "a");
		session.begin();
		session.query("CREATE TEMP TABLE written AS SELECT 1");
		wait_and_grant(lock);
		EXPECT_EQ(session.query("SELECT 42"), "42");
		run();
		expect_failed_and_free(lock);
		EXPECT_EQ(session.query("SELECT count(*) FROM written"), "1") << "it can go on";
		session.rollback();
	}
}

TEST_F(Disturbed, ByTheEndOfItsTransaction)
{
	async_lock lock(context, session.get(), "a", {.scope = pglock::scope::transaction});

	session.begin();
	wait_and_grant(lock);
	session.commit();
	run();
	EXPECT_NE(noted, "true");
	EXPECT_FALSE(lock.locked());
	EXPECT_TRUE(server::is_free("a"));
}

TEST_F(Disturbed, ByAFailedTransactionTheBooksKnowWhatIsHeld)
{
	async_lock lock(context, session.get(), "a");

	session.begin();
	wait_and_grant(lock);
	EXPECT_THROW(session.query("SELECT 1/0"), pglock::error);
	run();
	EXPECT_EQ(noted, "25P02") << "that it can't be given back";
	EXPECT_TRUE(lock.locked());
	EXPECT_FALSE(server::is_free("a"));
	session.rollback();
	EXPECT_EQ(release(lock), "true");
}

TEST_F(Disturbed, ByACommandThatHasNotEnded)
{
	async_lock lock(context, session.get(), "a");

	wait_and_grant(lock);
	PQclear(PQgetResult(session.get()));
	EXPECT_EQ(PQgetResult(session.get()), nullptr);
	ASSERT_EQ(PQsendQuery(session.get(), "SELECT 42"), 1);
	run();
	EXPECT_NE(noted, "true");
	EXPECT_NE(noted, "");
	EXPECT_TRUE(lock.locked()) << "it can't be given back now";

	PGresult *result = PQgetResult(session.get());

	EXPECT_STREQ(PQgetvalue(result, 0, 0), "42") << "it is whose it was";
	PQclear(result);
	EXPECT_EQ(PQgetResult(session.get()), nullptr);
	EXPECT_EQ(release(lock), "true");
	EXPECT_TRUE(server::is_free("a"));
}

TEST_F(Disturbed, ByAnErrorOfTheServer)
{
	async_lock lock(context, session.get(), "a");

	lock.async_acquire(note(noted));
	run_until_waiting();
	other.query("SELECT pg_cancel_backend(pid) FROM pg_locks WHERE NOT granted");
	EXPECT_EQ(session.query("SELECT 42"), "42");
	run();
	holder.reset();
	expect_failed_and_free(lock);
}

TEST_F(Disturbed, NotByWhoOnlyReadsWhatHasCome)
{
	async_lock lock(context, session.get(), "a");

	wait_and_grant(lock);
	EXPECT_TRUE(server::soon([&] {
		PQconsumeInput(session.get());
		return PQisBusy(session.get()) == 0;
	}));
	run();
	EXPECT_EQ(noted, "true");
	EXPECT_EQ(release(lock), "true");
}

TEST_F(Disturbed, AReleaseIsKnownAllTheSame)
{
	async_lock lock(context, session.get(), "b");

	EXPECT_EQ(acquire(lock), "true");
	lock.async_release(note(noted));
	EXPECT_EQ(session.query("SELECT 42"), "42");
	run();
	EXPECT_EQ(noted, "true");
	EXPECT_FALSE(lock.locked());
	EXPECT_TRUE(server::is_free("b"));
}
