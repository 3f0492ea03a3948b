// How the server is made to wait: without a snapshot, for how long, in what encoding.
#include <string>

#include "server.hpp"

using namespace std::chrono_literals;

namespace
{
template <typename Way> class Wait : public server::Behaviour<Way>
{
  protected:
	/// Does the session of the waiter hold back VACUUM?
	bool
	holds_snapshot(const std::string &pid)
	{
		server::wait_for("wait_event = 'advisory' FROM pg_stat_activity WHERE pid = " + pid);
		return server::libpq_session().query(
				   "SELECT backend_xmin IS NOT NULL FROM pg_stat_activity WHERE pid = " + pid) ==
			   "t";
	}
};

TYPED_TEST_SUITE(Wait, server::ways, server::way_names);
} // namespace

TYPED_TEST(Wait, OutsideATransactionItHoldsNoSnapshot)
{
	typename TestFixture::place place;
	pglock::guard holder(place.ref(), "busy", this->with());
	typename TestFixture::waiter forever("busy");
	typename TestFixture::waiter a_minute("busy", this->with({.timeout = 1min}));
	typename TestFixture::waiter unprepared("busy",
											this->with(
												{.statements = pglock::statements::unprepared}));

	for (auto *each : {&forever, &a_minute, &unprepared})
		EXPECT_EQ(this->holds_snapshot(each->pid()), !this->at_session_scope);
	for (auto *each : {&forever, &a_minute, &unprepared})
	{
		server::libpq_session().query("SELECT pg_cancel_backend(" + each->pid() + ")");
		EXPECT_EQ(each->outcome(), "57014");
	}
}

TYPED_TEST(Wait, TimeoutsAreMilliseconds)
{
	typename TestFixture::place place;
	typename TestFixture::place other;
	pglock::guard holder(place.ref(), "busy", this->with());
	pglock::lock lock(other.ref(), "busy", this->with());
	auto start = std::chrono::steady_clock::now();

	EXPECT_FALSE(lock.acquire(100ms));

	auto took = std::chrono::steady_clock::now() - start;

	EXPECT_GE(took, 100ms);
	EXPECT_LT(took, 50s) << "a bare 100 would be seconds";
}

TYPED_TEST(Wait, LockTimeoutIsNotOurs)
{
	typename TestFixture::place place;
	typename TestFixture::place other;
	pglock::guard holder(place.ref(), "busy", this->with());
	pglock::lock lock(other.ref(), "busy", this->with());

	other.query("SET lock_timeout = '20ms'");
	try
	{
		(void)lock.acquire(1min);
		FAIL();
	}
	catch (const pglock::timeout_error &)
	{
		FAIL() << "that was not the timeout of the call";
	}
	catch (const pglock::error &error)
	{
		EXPECT_EQ(error.sqlstate(), "55P03");
	}
}

TYPED_TEST(Wait, NoTimeoutIsTooLong)
{
	typename TestFixture::place place;
	pglock::lock lock(place.ref(), "a", this->with());

	EXPECT_TRUE(lock.acquire(std::chrono::hours::max()));
	EXPECT_TRUE(lock.locked());
}

TYPED_TEST(Wait, KeysAreTheSameInEveryEncoding)
{
	typename TestFixture::place place;
	pglock::lock utf8(place.ref(), "caf\xc3\xa9", this->with());

	EXPECT_EQ(utf8.lock_id(), 139380260014773691);
	EXPECT_EQ(pglock::lock(place.ref(), 5, this->with()).lock_id(), 983116577831777608);
	EXPECT_EQ(pglock::lock(place.ref(), "", this->with()).lock_id(), 124584541093122799);
	place.query("SET client_encoding = 'LATIN1'");
	EXPECT_EQ(pglock::lock(place.ref(), "caf\xe9", this->with()).lock_id(), 139380260014773691);
}

TYPED_TEST(Wait, KeysAreTextAndNoSql)
{
	typename TestFixture::place place;
	std::string odd = "it's \\ $1 \"quoted\"; %s \n\t";
	pglock::guard guard(place.ref(), odd, this->with());

	EXPECT_EQ(place.query("SELECT key FROM pglock.locks WHERE pid = pg_backend_pid()"), odd);
}

TYPED_TEST(Wait, ALaterHoldersTokenIsGreater)
{
	typename TestFixture::place place;
	std::int64_t earlier = 0;

	for (int i = 0; i < 3; i++)
	{
		{
			pglock::guard guard(place.ref(), "fenced", this->with());

			EXPECT_GT(guard.token(), earlier);
			earlier = guard.token();
		}
		place.finish();
	}

	pglock::lock not_held(place.ref(), "fenced", this->with());

	EXPECT_THROW((void)not_held.token(), pglock::error);
}
