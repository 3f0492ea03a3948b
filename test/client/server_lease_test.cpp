// Leases: one holder at a time, over whatever connection, until release or expiry.
#include <atomic>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <postgres_lock/lease.hpp>

#include "handler.hpp"
#include "server.hpp"

using namespace std::chrono_literals;
using pglock::boot_clock;
using pglock::lease;
using pglock::lease_guard;
using server::libpq_session;

namespace
{
/// In both libraries. `other` is another session.
template <typename Session> class Leases : public testing::Test
{
  protected:
	Session session;
	Session other;
	failures heard;

	/// Could another one be had at once?
	bool
	is_free(const char *key = "job")
	{
		std::optional<lease> taken = lease::acquire(other.ref(), key, {.timeout = 0s});

		return taken && taken->release(other.ref());
	}

	/// Takes it over once it has expired.
	lease
	take_over()
	{
		return lease::acquire(other.ref(), "job").value();
	}
};

struct library_names
{
	template <typename Session>
	static std::string
	GetName(int)
	{
		return std::is_same_v<Session, libpq_session> ? "libpq" : "pqxx";
	}
};

using libraries = testing::Types<libpq_session, server::pqxx_session>;

TYPED_TEST_SUITE(Leases, libraries, library_names);
} // namespace

TYPED_TEST(Leases, KeepOthersOutUntilTheyEnd)
{
	std::int64_t token = 0;
	{
		lease_guard guard(this->session.ref(), "job");

		token = guard.token();
		EXPECT_FALSE(this->is_free());
		EXPECT_FALSE(lease::acquire(this->other.ref(), "job", {.timeout = 10ms}));
		EXPECT_THROW(lease_guard(this->other.ref(), "job", {.timeout = 0s}).release(),
					 pglock::timeout_error);
		EXPECT_TRUE(this->is_free("another job"));
		EXPECT_TRUE(guard.renew());
		EXPECT_TRUE(guard.lease().held(this->session.ref()));
	}

	lease_guard next(this->other.ref(), "job", {.timeout = 0s});

	EXPECT_GT(next.token(), token);
	EXPECT_TRUE(this->heard.all().empty());
}

TYPED_TEST(Leases, NeverTwoAtOnce)
{
	std::atomic<int> inside = 0;
	std::atomic<bool> met = false;
	std::vector<std::thread> threads;

	for (int i = 0; i < 4; i++)
		threads.emplace_back([&] {
			TypeParam own;

			for (int round = 0; round < 20; round++)
			{
				lease_guard guard(own.ref(), "crowd");

				if (++inside > 1)
					met = true;
				std::this_thread::sleep_for(200us);
				--inside;
			}
		});
	for (std::thread &thread : threads)
		thread.join();
	EXPECT_FALSE(met);
	EXPECT_TRUE(this->heard.all().empty());
}

TYPED_TEST(Leases, SeveralMayHoldOneIfThereAreSlots)
{
	const pglock::lease_options two{.timeout = 0s, .holder = "it's \"me\"", .slots = 2};
	lease_guard first(this->session.ref(), "job", two);
	lease_guard second(this->session.ref(), "job", two);

	EXPECT_FALSE(lease::acquire(this->other.ref(), "job", two));
	EXPECT_EQ(this->other.query("SELECT string_agg(holder || slot, ' ' ORDER BY slot) "
								"FROM pglock.leases WHERE key = 'job'"),
			  "it's \"me\"1 it's \"me\"2");
}

TYPED_TEST(Leases, AreTakenOverWhenTheyHaveExpired)
{
	lease first = lease::acquire(this->session.ref(), "job", {.ttl = 30ms}).value();
	lease second = this->take_over();

	EXPECT_GT(second.token(), first.token());
	EXPECT_TRUE(first.expired());
	EXPECT_FALSE(first.held(this->session.ref()));
	EXPECT_THROW(first.check(this->session.ref()), pglock::lease_lost);
	EXPECT_FALSE(first.renew(this->session.ref()));
	EXPECT_FALSE(first.release(this->session.ref()));
	EXPECT_TRUE(second.held(this->session.ref())) << "that did it no harm";
	EXPECT_TRUE(second.release(this->other.ref()));
}

TYPED_TEST(Leases, AreRenewedAfterTheirEndIfNobodyHasThem)
{
	lease held = lease::acquire(this->session.ref(), "job", {.ttl = 20ms}).value();

	EXPECT_TRUE(server::soon([&] { return held.expired(); }));
	EXPECT_TRUE(server::soon([&] { return !held.held(this->session.ref()); }));
	EXPECT_TRUE(held.renew(this->session.ref()));
	EXPECT_TRUE(held.release(this->session.ref()));
}

TYPED_TEST(Leases, BelongToNoConnection)
{
	std::optional<TypeParam> first(std::in_place);
	lease held = lease::acquire(first->ref(), "job").value();

	first.reset();
	held.check(this->session.ref());
	EXPECT_TRUE(held.renew(this->session.ref()));

	lease adopted("job", held.token(), {.ttl = 5s});

	EXPECT_TRUE(adopted.renew(this->other.ref()));
	EXPECT_EQ(this->other.query("SELECT ttl FROM pglock.leases WHERE key = 'job'"), "00:00:05");
	EXPECT_TRUE(adopted.release(this->other.ref()));
	EXPECT_FALSE(held.release(this->session.ref()));
}

TYPED_TEST(Leases, OfATransactionThatRollsBackNeverWere)
{
	this->session.begin();

	lease held = lease::acquire(this->session.ref(), "job").value();

	held.check(this->session.ref());
	EXPECT_FALSE(this->is_free());
	this->session.rollback();
	EXPECT_TRUE(this->is_free());
	EXPECT_FALSE(held.renew(this->session.ref()));
}

TYPED_TEST(Leases, AreReleasedWithTheTransaction)
{
	lease held = lease::acquire(this->session.ref(), "job").value();

	for (bool commits : {false, true})
	{
		this->session.begin();
		EXPECT_TRUE(held.release(this->session.ref()));
		EXPECT_FALSE(this->is_free());
		commits ? this->session.commit() : this->session.rollback();
		EXPECT_EQ(this->is_free(), commits);
	}
}

TYPED_TEST(Leases, OnceCheckedAreNotTakenOverBeforeTheTransactionEnds)
{
	std::atomic<bool> is_over = false;
	std::atomic<bool> was_over = false;
	lease held = lease::acquire(this->session.ref(), "job", {.ttl = 30ms}).value();

	this->session.begin();
	held.check(this->session.ref());

	std::thread next([&] {
		lease taken = this->take_over();

		was_over = is_over.load();
		taken.release(this->other.ref());
	});

	server::wait_for("EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)");
	EXPECT_TRUE(held.expired());
	is_over = true;
	this->session.commit();
	next.join();
	EXPECT_TRUE(was_over);
}

TYPED_TEST(Leases, AnExceptionRollsBackAndReleases)
{
	this->session.query("CREATE TEMP TABLE work (step int)");
	for (const char *statement : {"INSERT INTO work VALUES (1)", "SELECT 1/0"})
	{
		EXPECT_THROW(
			{
				lease_guard guard(this->session.ref(), "job");

				this->session.begin();

				lease_guard within(this->session.ref(), "another job");

				this->session.query(statement);
				throw std::runtime_error("work has failed");
			},
			std::runtime_error);
		this->session.rollback();
		EXPECT_TRUE(this->is_free());
		EXPECT_TRUE(this->is_free("another job"));
		EXPECT_EQ(this->session.query("SELECT count(*) FROM work"), "0");
	}
	EXPECT_TRUE(this->heard.all().empty());
}

TYPED_TEST(Leases, OneThatWasWaitedForLastsFromTheGrant)
{
	lease first = lease::acquire(this->session.ref(), "job").value();
	boot_clock::time_point released;
	std::thread holder([&] {
		server::wait_for("EXISTS (SELECT FROM pglock.leases WHERE key = 'job' AND waiters = 1)");
		std::this_thread::sleep_for(60ms);
		released = boot_clock::now();
		first.release(this->session.ref());
	});
	lease second = lease::acquire(this->other.ref(), "job", {.ttl = 500ms}).value();

	holder.join();
	EXPECT_GE(second.deadline(), released + 500ms);
	second.release(this->other.ref());
}

TYPED_TEST(Leases, AGuardTellsOfAConnectionThatIsLost)
{
	std::optional<lease> held;
	{
		lease_guard guard(this->session.ref(), "job");

		held = guard.lease();
		server::terminate(server::pid_of(this->session));
	}
	EXPECT_EQ(this->heard.all().size(), 1u);
	EXPECT_TRUE(held->renew(this->other.ref())) << "it does not end with the session";
	EXPECT_TRUE(held->release(this->other.ref()));
}

TYPED_TEST(Leases, AreRefusedAsTheServerSays)
{
	EXPECT_THROW((void)lease::acquire(this->session.ref(), "job", {.ttl = 0s}), pglock::error);
	EXPECT_THROW((void)lease::acquire(this->session.ref(), "job",
									  {.ttl = std::chrono::milliseconds::max()}),
				 pglock::error);
	EXPECT_THROW((void)lease::acquire(this->session.ref(), "job", {.slots = 0}), pglock::error);
}

namespace
{
using connection_ptr = std::unique_ptr<PGconn, decltype(&PQfinish)>;
} // namespace

TEST(LeaseGuard, GoesOnWhenItsConnectionIsReset)
{
	failures heard;
	libpq_session session;
	libpq_session other;
	{
		lease_guard guard(session.get(), "job");

		PQreset(session.get());
		EXPECT_TRUE(guard.renew());
	}
	EXPECT_TRUE(lease::acquire(other.get(), "job", {.timeout = 0s})->release(other.get()));
	EXPECT_TRUE(heard.all().empty());
}

TEST(LeaseGuard, MayOutliveItsConnection)
{
	failures heard;
	libpq_session session;
	libpq_session other;
	std::optional<lease_guard> guard(std::in_place, session.get(), "job");
	lease held = guard->lease();

	session.close();
	EXPECT_THROW((void)guard->renew(), pglock::connection_lost);
	guard.reset();
	EXPECT_EQ(heard.all().size(), 1u);
	EXPECT_TRUE(held.release(other.get()));
}

TEST(HandedOver, ConnectionsAreClosedAfterTheRelease)
{
	failures heard;
	libpq_session other;
	auto connect = [] { return connection_ptr(PQconnectdb("application_name=owned"), PQfinish); };
	{
		pglock::guard guard(connect(), "job");
		pglock::slot_guard slot(connect(), "job", 1);
		lease_guard lease(connect(), "job");

		EXPECT_EQ(other.query("SELECT count(*) FROM pg_stat_activity "
							  "WHERE application_name = 'owned'"),
				  "3");
	}
	server::wait_for("NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'owned')");
	EXPECT_EQ(other.query("SELECT count(*) FROM pglock.leases WHERE key = 'job'"), "0");
	EXPECT_TRUE(server::is_free("job"));
	EXPECT_TRUE(heard.all().empty());
}

TEST(HandedOver, ConnectionsOfLibpqxxAreClosedToo)
{
	failures heard;
	{
		pglock::guard guard(std::make_unique<pqxx::connection>("application_name=owned"), "job");
		lease_guard lease(std::make_shared<pqxx::connection>("application_name=owned"), "job");
	}
	server::wait_for("NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'owned')");
	EXPECT_TRUE(server::is_free("job"));
	EXPECT_TRUE(heard.all().empty());
}
