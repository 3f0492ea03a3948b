// Taking a lease as a state machine: each reply, each error, and a cancellation at each step.
#include <memory>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <postgres_lock/lease.hpp>

#include "fake.hpp"

using namespace std::chrono_literals;
using pglock::transaction_status;
using pglock::detail::lease_acquisition;
using pglock::detail::lease_check;
using pglock::detail::lease_state;
using pglock::detail::session_link;
using outcome = pglock::detail::wait_outcome;
using texts = std::vector<std::string>;

namespace
{
const std::string call =
	"CALL pglock.lease($1::text, $2::interval, $3::interval, $4::text, $5::integer)|a|";
const std::string acquire =
	"SELECT pglock.acquire_lease($1::text, $2::interval, $3::interval, $4::text, $5::integer)|a|";
const std::string renew = "SELECT pglock.renew_lease($1::text, $2::bigint, $3::interval)|a|42|";
const std::string release = "SELECT pglock.release_lease($1::text, $2::bigint)|a|42";
const std::string savepoint = "SAVEPOINT pglock_wait";
const std::string roll_back_to = "ROLLBACK TO SAVEPOINT pglock_wait";
const std::string drop = "RELEASE SAVEPOINT pglock_wait";

/// Never: no such step.
using fake::never;

class LeaseProtocol : public testing::Test
{
  protected:
	fake::connection connection;
	std::shared_ptr<lease_state> lease;

	/// Takes the lease. A cancellation arrives while the answer to that request, counted from 0, is
	/// on its way.
	outcome
	take(const pglock::lease_options &options = {}, unsigned cancel_at = never)
	{
		lease = std::make_shared<lease_state>("a", 0, options);

		lease_acquisition machine(lease, session_link(connection), options, true);
		fake::drive(connection, machine, cancel_at);
		return machine.result();
	}

	[[nodiscard]] bool
	is_expired() const
	{
		return lease_state::clock::now() >= lease->deadline();
	}

	/// The grant comes so late that it is renewed.
	void
	answer_late()
	{
		connection.answer([] {
			std::this_thread::sleep_for(20ms);
			return pglock::reply("42");
		});
	}
};
} // namespace

TEST_F(LeaseProtocol, TakesInOneStep)
{
	connection.answer("42");
	EXPECT_EQ(take({.timeout = 5s, .holder = "me", .slots = 3}), outcome::taken);
	EXPECT_EQ(connection.asked(), texts{call + "30000 ms|5000 ms|me|3"});
	EXPECT_EQ(lease->token(), 42);
	EXPECT_FALSE(is_expired());
}

TEST_F(LeaseProtocol, InABlockItTriesAndThenWaitsBehindASavepoint)
{
	connection.status = transaction_status::open;
	connection.answer([] { return pglock::reply(); });
	connection.answer("");
	connection.answer("42");
	EXPECT_EQ(take(), outcome::taken);
	EXPECT_EQ(connection.asked(), (texts{acquire + "30000 ms|0 ms|NULL|1", savepoint,
										 acquire + "30000 ms|NULL|NULL|1", drop}));
	EXPECT_FALSE(is_expired());
}

TEST_F(LeaseProtocol, ACancelledWaitInABlockGoesBackToTheSavepoint)
{
	connection.status = transaction_status::open;
	connection.answer([] { return pglock::reply(); });
	connection.answer("");
	connection.fail("57014");
	EXPECT_EQ(take({}, 2), outcome::cancelled);

	texts asked = connection.asked();

	EXPECT_EQ(texts(asked.begin() + 3, asked.end()), (texts{roll_back_to, drop}));
}

TEST_F(LeaseProtocol, GivesBackWhatACancellationFindsGranted)
{
	for (auto status : {transaction_status::idle, transaction_status::open})
	{
		connection.status = status;
		connection.answer("42");
		EXPECT_EQ(take({}, 0), outcome::cancelled);
		EXPECT_EQ(connection.asked().back(), release);
	}
}

TEST_F(LeaseProtocol, ACancelledWaitEndsByTheServersError)
{
	connection.fail("57014");
	EXPECT_EQ(take({}, 0), outcome::cancelled);
	connection.fail("55P03", "could not acquire lease \"a\" in time");
	EXPECT_EQ(take({.timeout = 1s}, 0), outcome::cancelled);
	connection.fail("57014");
	EXPECT_THROW(take(), pglock::error) << "somebody else has cancelled it";
	connection.fail("57P01");
	EXPECT_THROW(take({}, 0), pglock::connection_lost);
}

TEST_F(LeaseProtocol, MakesUpForItsWait)
{
	answer_late();

	auto start = lease_state::clock::now();

	EXPECT_EQ(take({.ttl = 100ms}), outcome::taken);
	EXPECT_EQ(connection.asked().back(), renew + "100 ms");
	EXPECT_GE(lease->deadline(), start + 120ms);
}

TEST_F(LeaseProtocol, IsHeldThoughItCannotBeRenewed)
{
	answer_late();
	connection.fail("57014");
	EXPECT_EQ(take({.ttl = 100ms}), outcome::taken);
	answer_late();
	connection.fail("57P01");
	EXPECT_EQ(take({.ttl = 100ms}), outcome::taken);
	answer_late();
	connection.answer("f");
	EXPECT_EQ(take({.ttl = 100ms}), outcome::taken);
	EXPECT_TRUE(is_expired()) << "somebody has revoked it";
}

TEST_F(LeaseProtocol, ACancellationOfTheRenewalGivesTheLeaseBack)
{
	answer_late();
	EXPECT_EQ(take({.ttl = 100ms}, 1), outcome::cancelled);
	EXPECT_EQ(connection.asked().back(), release);
	answer_late();
	connection.fail("57P01");
	EXPECT_THROW(take({.ttl = 100ms}, 1), pglock::connection_lost);
}

TEST_F(LeaseProtocol, ACheckThatIsCancelledIsNone)
{
	lease = std::make_shared<lease_state>("a", 42, pglock::lease_options{});

	lease_check check(lease, session_link(connection));
	pglock::error interrupted("canceled", "57014");

	ASSERT_TRUE(check.next());
	EXPECT_FALSE(check.recovers(interrupted)) << "nobody has cancelled it";
	EXPECT_FALSE(check.wants_interruption());
	check.cancel();
	EXPECT_TRUE(check.wants_interruption());
	EXPECT_TRUE(check.recovers(interrupted));
	EXPECT_FALSE(check.next());
	EXPECT_FALSE(check.result());
}

TEST_F(LeaseProtocol, AConnectionWhoseWaitCannotBeStoppedSaysSo)
{
	std::stop_source stop;

	EXPECT_THROW((void)pglock::lease::acquire(connection, "a", {.stop = stop.get_token()}),
				 std::invalid_argument);
	EXPECT_TRUE(connection.asked().empty());
}
