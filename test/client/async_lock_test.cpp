// Locks that don't wait in the thread: by callbacks and by futures.
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/resource.h>

#include "async.hpp"
#include "handler.hpp"
#include "recorder.hpp"

using async::note;
using async::outcome;
using namespace std::chrono_literals;
using pglock::async_lock;

namespace
{
class AsyncLock : public async::Async
{
  protected:
	server::libpq_session session;
};
} // namespace

TEST_F(AsyncLock, TakesAndReleasesByCallbacks)
{
	async_lock lock(context, session.get(), "a");
	std::string noted;

	lock.async_acquire(note(noted));
	EXPECT_EQ(noted, "") << "never at once";
	run();
	EXPECT_EQ(noted, "true");
	EXPECT_TRUE(lock.locked());
	EXPECT_EQ(lock.depth(), 1U);
	EXPECT_FALSE(server::is_free("a"));
	EXPECT_EQ(release(lock), "true");
	EXPECT_FALSE(lock.locked());
	EXPECT_TRUE(server::is_free("a"));
	EXPECT_EQ(release(lock), "false") << "there is nothing to release";
}

TEST_F(AsyncLock, TakesAndReleasesByFutures)
{
	auto work = asio::make_work_guard(context);
	std::thread thread([this] { context.run(); });
	async_lock lock(context, session.get(), "a");

	EXPECT_TRUE(lock.async_acquire(asio::use_future).get());
	EXPECT_FALSE(server::is_free("a"));
	EXPECT_GT(lock.async_token(asio::use_future).get(), 0);
	EXPECT_THROW((void)lock.async_acquire(asio::use_future).get(), pglock::acquire_error);
	EXPECT_TRUE(lock.async_release(asio::use_future).get());
	EXPECT_THROW((void)lock.async_token(asio::use_future).get(), pglock::error);

	auto guard = pglock::async_acquire(context.get_executor(), session.get(), {"b", "a"}, {},
									   asio::use_future)
					 .get();

	EXPECT_FALSE(server::is_free("b"));
	EXPECT_TRUE(guard.async_unlock(asio::use_future).get());
	EXPECT_TRUE(server::is_free("b"));
	work.reset();
	thread.join();
}

TEST_F(AsyncLock, TellsAnObserver)
{
	using texts = std::vector<std::string>;
	server::libpq_session other;
	recorder notes;
	async_lock lock(context, session.get(), "a", {.observer = &notes});
	std::string noted;

	EXPECT_EQ(acquire(lock), "true");
	EXPECT_EQ(release(lock), "true");
	EXPECT_EQ(notes.told(), (texts{"waiting a", "acquired a", "released a"}));
	{
		pglock::guard holder(other.get(), "a");

		lock.async_acquire(10ms, note(noted));
		run();
		EXPECT_EQ(noted, "false");
		EXPECT_EQ(notes.told(), (texts{"waiting a", "refused a"}));
	}
	EXPECT_EQ(acquire(lock), "true");
	notes.told();
	server::terminate(server::pid_of(session));
	EXPECT_EQ(release(lock), "lost");
	EXPECT_EQ(notes.told(), texts{"lost a"});
}

TEST_F(AsyncLock, LeavesTheConnectionAsItWas)
{
	async_lock lock(context, session.get(), "a");

	for (int nonblocking : {0, 1})
	{
		PQsetnonblocking(session.get(), nonblocking);
		EXPECT_EQ(acquire(lock), "true");
		EXPECT_EQ(PQisnonblocking(session.get()), nonblocking);
		EXPECT_EQ(release(lock), "true");
		EXPECT_EQ(PQisnonblocking(session.get()), nonblocking);
	}
}

TEST_F(AsyncLock, AnswersWhatTheLockAnswers)
{
	server::libpq_session other;
	std::optional<pglock::guard> holder(std::in_place, other.ref(), "a");
	async_lock lock(context, session.get(), "a");
	std::string noted;

	lock.async_try_acquire(note(noted));
	run();
	EXPECT_EQ(noted, "false");
	lock.async_acquire(2ms, note(noted));
	run();
	EXPECT_EQ(noted, "false");

	async_lock impatient(context, session.get(), "a", {.timeout = 2ms});

	EXPECT_EQ(acquire(impatient), "false");
	holder.reset();
	EXPECT_EQ(acquire(impatient), "true");
	EXPECT_EQ(acquire(lock), "deadlock") << "another object holds it on this connection";
	session.query("SELECT pg_advisory_unlock_all()");
	EXPECT_EQ(release(impatient), "not held");
}

TEST_F(AsyncLock, SharedCounts)
{
	server::libpq_session other;
	async_lock lock(context, session.get(), "a", {.shared = true});
	async_lock second(context, other.get(), "a", {.shared = true});

	EXPECT_EQ(acquire(lock), "true");
	EXPECT_EQ(acquire(lock), "true");
	EXPECT_EQ(acquire(second), "true");
	EXPECT_EQ(lock.depth(), 2U);
	EXPECT_EQ(release(lock), "true");
	EXPECT_EQ(release(lock), "true");
	EXPECT_EQ(release(lock), "false");
}

TEST_F(AsyncLock, WaitsInATransactionToo)
{
	for (auto scope : {pglock::scope::session, pglock::scope::transaction})
	{
		server::libpq_session other;
		std::optional<pglock::guard> holder(std::in_place, other.ref(), "a");
		async_lock lock(context, session.get(), "a", {.scope = scope});
		std::string noted;

		session.begin();
		lock.async_acquire(note(noted));
		run_until_waiting();
		EXPECT_EQ(noted, "");
		holder.reset();
		run();
		EXPECT_EQ(noted, "true");
		EXPECT_TRUE(lock.locked());
		session.commit();
		EXPECT_EQ(lock.locked(), scope == pglock::scope::session);
		EXPECT_EQ(release(lock), scope == pglock::scope::session ? "true" : "false");
		EXPECT_TRUE(server::is_free("a"));
	}
}

TEST_F(AsyncLock, WaitsWithoutASnapshot)
{
	server::libpq_session other;
	std::optional<pglock::guard> holder(std::in_place, other.ref(), "a");
	async_lock lock(context, session.get(), "a");
	std::string noted;

	lock.async_acquire(note(noted));
	run_until_waiting();
	EXPECT_EQ(other.query("SELECT count(backend_xmin) FROM pg_stat_activity "
						  "WHERE wait_event_type = 'Lock'"),
			  "0");
	holder.reset();
	run();
	EXPECT_EQ(noted, "true");
}

TEST_F(AsyncLock, HandlesErrors)
{
	async_lock lock(context, session.get(), "a");
	std::string noted;

	EXPECT_EQ(acquire(lock), "true");
	session.query("CREATE TEMP TABLE written (n int)");
	session.begin();
	session.query("INSERT INTO written VALUES (1)");
	EXPECT_THROW(session.query("SELECT 1/0"), pglock::error);
	lock.async_handle_error(note(noted));
	run();
	EXPECT_EQ(noted, "true");
	EXPECT_TRUE(server::is_free("a"));
	EXPECT_EQ(session.query("SELECT count(*) FROM written"), "0");
}

TEST_F(AsyncLock, LongKeysDoNotStopTheThread)
{
	std::string key(20'000'000, 'k');
	async_lock lock(context, session.get(), key);

	EXPECT_EQ(acquire(lock), "true");
	EXPECT_EQ(release(lock), "true");
}

TEST_F(AsyncLock, OneCommandAtATime)
{
	server::libpq_session other;
	std::optional<pglock::guard> holder(std::in_place, other.ref(), "a");
	async_lock lock(context, session.get(), "a");
	async_lock second(context, session.get(), "b");
	std::string noted;
	std::string refused;

	lock.async_acquire(note(noted));
	run_until_waiting();
	second.async_acquire(note(refused));
	run_until("true");
	EXPECT_NE(refused.find("busy"), std::string::npos) << refused;
	lock.async_release(note(refused));
	run_until("true");
	EXPECT_EQ(refused, "false") << "it is not held yet";
	holder.reset();
	run();
	EXPECT_EQ(noted, "true");
}

TEST_F(AsyncLock, ARefusedOperationForgetsNothing)
{
	server::libpq_session other;
	std::optional<pglock::guard> holder(std::in_place, other.ref(), "a");
	async_lock lock(context, session.get(), "a");
	async_lock second(context, session.get(), "a");
	std::string noted;
	std::string refused;

	lock.async_acquire(note(noted));
	run_until_waiting();
	lock.async_acquire(note(refused));
	run_until("true");
	EXPECT_NE(refused.find("busy"), std::string::npos) << refused;
	holder.reset();
	run();
	EXPECT_EQ(noted, "true");
	EXPECT_EQ(acquire(second), "deadlock");
}

TEST_F(AsyncLock, AnErrorOnABusyConnectionIsNotPassedOver)
{
	async_lock lock(context, session.get(), "a", {.scope = pglock::scope::transaction});
	std::string handled;

	session.begin();
	EXPECT_EQ(acquire(lock), "true");
	ASSERT_EQ(PQsendQuery(session.get(), "SELECT"), 1);
	lock.async_handle_error(note(handled));
	run();
	EXPECT_NE(handled.find("busy"), std::string::npos) << handled;
	EXPECT_TRUE(lock.locked());
	while (PGresult *result = PQgetResult(session.get()))
		PQclear(result);
	lock.async_handle_error(note(handled));
	run();
	EXPECT_EQ(handled, "false") << "it ended with the transaction";
	EXPECT_TRUE(server::is_free("a"));
}

TEST_F(AsyncLock, StatementsThatAPoolerHasLostAreRecovered)
{
	async_lock lock(context, session.get(), "a");

	for (int i = 0; i < 2; i++)
	{
		EXPECT_EQ(acquire(lock), "true");
		session.query("DEALLOCATE ALL");
		EXPECT_EQ(release(lock), "true");
		session.query("DEALLOCATE ALL");
	}
}

TEST_F(AsyncLock, ChildProcessesDoNotInheritTheSession)
{
	auto inheritable = [] {
		int count = 0;

		for (int file = 3; file < 1024; file++)
			if (int flags = fcntl(file, F_GETFD); flags >= 0 && (flags & FD_CLOEXEC) == 0)
				count++;
		return count;
	};
	server::libpq_session other;
	std::optional<pglock::guard> holder(std::in_place, other.ref(), "a");
	async_lock lock(context, session.get(), "a");
	std::string noted;
	int before = inheritable();

	lock.async_acquire(note(noted));
	run_until_waiting();
	EXPECT_EQ(inheritable(), before);
	holder.reset();
	run();
}

// to look at an object that sanitizer opens files
#if !defined(__SANITIZE_ADDRESS__)
TEST_F(AsyncLock, WithoutFilesItFailsAndCanBeRepeated)
{
	async_lock lock(context, session.get(), "a");
	rlimit limit{};
	rlimit none{};

	getrlimit(RLIMIT_NOFILE, &limit);
	none = limit;
	none.rlim_cur = static_cast<rlim_t>(PQsocket(session.get()));
	setrlimit(RLIMIT_NOFILE, &none);

	std::string failed = acquire(lock);

	setrlimit(RLIMIT_NOFILE, &limit);
	EXPECT_NE(failed, "true");
	EXPECT_EQ(PQisnonblocking(session.get()), 0);
	EXPECT_EQ(acquire(lock), "true");
}
#endif

TEST_F(AsyncLock, ErrorsOfTheServerArrive)
{
	async_lock lock(context, session.get(), "a", {.scope = pglock::scope::transaction});

	EXPECT_EQ(acquire(lock), "25P01");
	session.begin();
	EXPECT_THROW(session.query("SELECT 1/0"), pglock::error);
	EXPECT_EQ(acquire(lock), "25P02");
	session.rollback();
	EXPECT_THROW(async_lock(context, nullptr, "a"), std::invalid_argument);
}

TEST_F(AsyncLock, FiftyWaitersAreServedInTurn)
{
	constexpr std::size_t many = 50;
	pglock::guard holder(session.ref(), "a");
	std::vector<server::libpq_session> sessions(many);
	std::vector<std::unique_ptr<async_lock>> locks;
	std::vector<std::size_t> served;
	int holders = 0;

	for (std::size_t i = 0; i < many; i++)
	{
		auto &lock =
			*locks.emplace_back(std::make_unique<async_lock>(context, sessions[i].get(), "a"));

		lock.async_acquire([&, i](std::exception_ptr failure, bool taken) {
			EXPECT_EQ(outcome(failure, taken), "true");
			EXPECT_EQ(++holders, 1);
			served.push_back(i);
			holders--;
			locks[i]->async_release([](std::exception_ptr error, bool released) {
				EXPECT_EQ(outcome(error, released), "true");
			});
		});
		run_until_waiting(static_cast<int>(i) + 1);
	}
	EXPECT_TRUE(served.empty());
	holder.unlock();
	run();
	ASSERT_EQ(served.size(), many);
	for (std::size_t i = 0; i < many; i++)
		EXPECT_EQ(served[i], i);
}

TEST_F(AsyncLock, ALostConnectionEndsTheWait)
{
	server::libpq_session other;
	pglock::guard holder(other.ref(), "a");
	async_lock lock(context, session.get(), "a");
	std::string noted;
	std::string pid = server::pid_of(session);

	lock.async_acquire(note(noted));
	run_until_waiting();
	server::terminate(pid);
	run();
	EXPECT_EQ(noted, "lost");
	EXPECT_TRUE(lock.lost());
	EXPECT_FALSE(lock.locked());
}

TEST_F(AsyncLock, AConnectionClosedMeanwhileEndsTheWait)
{
	server::libpq_session other;
	pglock::guard holder(other.ref(), "a");
	async_lock lock(context, session.get(), "a");
	std::string noted;

	lock.async_acquire(note(noted));
	run_until_waiting();
	session.close();
	run();
	EXPECT_EQ(noted, "lost");
	EXPECT_EQ(acquire(lock), "lost");
	EXPECT_EQ(release(lock), "false");
}

TEST_F(AsyncLock, ALostConnectionFailsTheRelease)
{
	async_lock lock(context, session.get(), "a");

	EXPECT_EQ(acquire(lock), "true");
	server::terminate(server::pid_of(session));
	EXPECT_EQ(release(lock), "lost");
	EXPECT_EQ(release(lock), "false");
}

TEST_F(AsyncLock, TheEndOfTheObjectCancelsTheWait)
{
	server::libpq_session other;
	pglock::guard holder(other.ref(), "a");
	std::optional<async_lock> lock(std::in_place, context, session.get(), "a");
	std::string noted;

	lock->async_acquire(note(noted));
	run_until_waiting();
	lock.reset();
	run();
	EXPECT_EQ(noted, "aborted");
	EXPECT_EQ(session.query("SELECT 1"), "1");
	holder.unlock();
	EXPECT_TRUE(server::is_free("a"));
}

TEST_F(AsyncLock, TheEndOfTheObjectReleases)
{
	{
		async_lock lock(context, session.get(), "a", {.shared = true});

		EXPECT_EQ(acquire(lock), "true");
		EXPECT_EQ(acquire(lock), "true");
	}
	EXPECT_TRUE(server::is_free("a"));
}

TEST_F(AsyncLock, TheEndOfTheObjectReleasesAfterTheOperation)
{
	failures heard;
	std::optional<async_lock> lock(std::in_place, context, session.get(), "a");
	std::string noted;

	EXPECT_EQ(acquire(*lock), "true");
	lock->async_token([&](std::exception_ptr failure, std::int64_t) {
		noted = outcome(failure);
		EXPECT_TRUE(server::is_free("a")) << "before the handler is called, which may go on";
	});
	lock.reset();
	run();
	EXPECT_EQ(noted, "true");
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(AsyncLock, TheEndOfTheContextEndsTheOperation)
{
	server::libpq_session other;
	pglock::guard holder(other.ref(), "a");
	std::optional<async_lock> lock;
	std::string noted;
	{
		asio::io_context brief;

		lock.emplace(brief, session.get(), "a");
		lock->async_acquire(note(noted));
		ASSERT_TRUE(server::soon([&] {
			brief.restart();
			brief.poll();
			return other.query("SELECT count(*) FROM pg_locks WHERE NOT granted") == "1";
		}));
		lock.reset();
	}
	EXPECT_EQ(noted, "");
	session.close();
	holder.unlock();
	EXPECT_TRUE(server::soon([] { return server::is_free("a"); }));
}

TEST_F(AsyncLock, GuardsEndAsGuardsDo)
{
	failures heard;
	pglock::async_guard guard;

	EXPECT_FALSE(guard.locked());
	EXPECT_THROW((void)guard.async_unlock([](std::exception_ptr, bool) {}), std::logic_error);
	pglock::async_acquire(context.get_executor(), session.get(), "a", {},
						  [&](std::exception_ptr failure, pglock::async_guard taken) {
							  EXPECT_EQ(outcome(failure), "true");
							  guard = std::move(taken);
						  });
	run();
	EXPECT_TRUE(guard.locked());
	EXPECT_FALSE(server::is_free("a"));
	guard = {};
	EXPECT_TRUE(server::is_free("a"));

	// nobody keeps it
	pglock::async_acquire(context.get_executor(), session.get(), "a", {},
						  [](std::exception_ptr, const pglock::async_guard &) {});
	run();
	EXPECT_TRUE(server::is_free("a"));
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(AsyncLock, GuardsTimeOut)
{
	server::libpq_session other;
	pglock::guard holder(other.ref(), "a");
	std::string noted;

	pglock::async_acquire(context.get_executor(), session.get(), {"a", "b"}, {.timeout = 1ms},
						  [&](std::exception_ptr failure, const pglock::async_guard &) {
							  noted = outcome(failure);
						  });
	run();
	EXPECT_EQ(noted, "timeout");
	EXPECT_TRUE(server::is_free("b"));
}
