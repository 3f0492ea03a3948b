// What a lease says to the server, what it makes of the answers, how long it holds, and how its
// guard ends.
#include <chrono>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include <gtest/gtest.h>
#include <postgres_lock/lease.hpp>

#include "child.hpp"
#include "fake.hpp"
#include "handler.hpp"

using namespace std::chrono_literals;
using pglock::boot_clock;
using pglock::lease;
using pglock::lease_guard;
using pglock::transaction_status;
using texts = std::vector<std::string>;

static_assert(std::is_copy_constructible_v<lease> && std::is_copy_assignable_v<lease>);
static_assert(!std::is_copy_constructible_v<lease_guard> &&
			  !std::is_copy_assignable_v<lease_guard>);
static_assert(std::is_nothrow_move_constructible_v<lease_guard>);
static_assert(std::is_nothrow_move_assignable_v<lease_guard>);
static_assert(std::is_nothrow_destructible_v<lease_guard>);

namespace
{
const std::string call_lease =
	"CALL pglock.lease($1::text, $2::interval, $3::interval, $4::text, $5::integer)|";
const std::string acquire =
	"SELECT pglock.acquire_lease($1::text, $2::interval, $3::interval, $4::text, $5::integer)|";
const std::string renew = "SELECT pglock.renew_lease($1::text, $2::bigint, $3::interval)|";
const std::string release = "SELECT pglock.release_lease($1::text, $2::bigint)|";
const std::string check = "SELECT pglock.check_lease($1::text, $2::bigint)|";
const std::string holds = "SELECT pglock.holds_lease($1::text, $2::bigint)|";

/// A token as the server's are, longer than a short string.
const char *const token = "1764000000000000";

class Lease : public testing::Test
{
  protected:
	fake::connection connection;
	fake::connection elsewhere;
	failures heard;

	lease
	take(const pglock::lease_options &options = {})
	{
		connection.answer(token);

		lease taken = lease::acquire(connection, "a", options).value();

		connection.asked();
		return taken;
	}

	lease_guard
	guard(const pglock::lease_options &options = {})
	{
		connection.answer(token);

		lease_guard made(connection, "a", options);

		connection.asked();
		return made;
	}

	/// Ends a guard by an exception while the connection is in that state.
	texts
	fail_under_guard(transaction_status status, const pglock::lease_options &options = {})
	{
		try
		{
			lease_guard held = guard(options);

			connection.status = status;
			throw std::runtime_error("work has failed");
		}
		catch (const std::runtime_error &)
		{
		}
		return connection.asked();
	}
};
} // namespace

TEST_F(Lease, OutsideABlockItCallsLease)
{
	connection.answer(token);

	std::optional<lease> taken = lease::acquire(connection, "a");

	ASSERT_TRUE(taken);
	EXPECT_EQ(taken->token(), 1764000000000000);
	EXPECT_EQ(taken->key(), pglock::key("a"));
	EXPECT_EQ(taken->ttl(), 30s);
	EXPECT_FALSE(taken->expired());
	EXPECT_EQ(connection.asked(), texts{call_lease + "a|30000 ms|NULL|NULL|1"});
	taken.reset();
	EXPECT_TRUE(connection.asked().empty()) << "it is not released";
}

TEST_F(Lease, InABlockItAcquires)
{
	connection.status = transaction_status::open;
	connection.answer(token);
	EXPECT_TRUE(lease::acquire(connection, 42,
							   {.ttl = 15s, .timeout = 5s, .holder = "node a", .slots = 3}));
	EXPECT_EQ(connection.asked(), texts{acquire + "42|15000 ms|5000 ms|node a|3"});
}

TEST_F(Lease, ItsOwnTimeoutIsNothing)
{
	connection.fail("55P03", "could not acquire lease \"a\" in time\nDETAIL:  any");
	EXPECT_FALSE(lease::acquire(connection, "a", {.timeout = 1ms}));
	connection.answer([] { return pglock::reply(); });
	connection.status = transaction_status::open;
	EXPECT_FALSE(lease::acquire(connection, "a", {.timeout = -1s}));
	EXPECT_EQ(connection.asked(),
			  (texts{call_lease + "a|30000 ms|1 ms|NULL|1", acquire + "a|30000 ms|0 ms|NULL|1"}));
}

TEST_F(Lease, OtherErrorsArePassedOn)
{
	for (const char *sqlstate : {"55P03", "22023", "57014"})
	{
		connection.fail(sqlstate, "canceling statement due to lock timeout");
		try
		{
			(void)lease::acquire(connection, "a", {.timeout = 1s});
			FAIL();
		}
		catch (const pglock::error &error)
		{
			EXPECT_EQ(error.sqlstate(), sqlstate);
		}
	}
	connection.fail("57P01");
	EXPECT_THROW((void)lease::acquire(connection, "a"), pglock::connection_lost);
}

TEST_F(Lease, ABusyConnectionIsNotDisturbed)
{
	lease held = take();

	connection.status = transaction_status::busy;
	EXPECT_THROW((void)lease::acquire(connection, "b"), pglock::error);
	EXPECT_THROW((void)held.renew(connection), pglock::error);
	EXPECT_THROW(held.check(connection), pglock::error);
	EXPECT_THROW((void)held.held(connection), pglock::error);
	EXPECT_THROW(held.release(connection), pglock::error);
	EXPECT_TRUE(connection.asked().empty());
	EXPECT_FALSE(held.expired());
}

TEST_F(Lease, AnotherConnectionMayBeUsed)
{
	lease held = take({.ttl = 15s});

	EXPECT_TRUE(held.renew(elsewhere));
	EXPECT_TRUE(held.held(elsewhere));
	held.check(elsewhere);
	EXPECT_TRUE(held.release(elsewhere));
	EXPECT_EQ(elsewhere.asked(), (texts{renew + "a|" + token + "|15000 ms", holds + "a|" + token,
										check + "a|" + token, release + "a|" + token}));
	EXPECT_TRUE(connection.asked().empty());
}

TEST_F(Lease, CopiesAreTheSameLease)
{
	lease held = take();
	lease copy = held;

	held.release(connection);
	EXPECT_TRUE(copy.expired());
}

TEST_F(Lease, IsCountedFromBeforeTheRequestIsSent)
{
	boot_clock::time_point sent;
	auto answer_late = [&](const char *answer) {
		return [&sent, answer] {
			sent = boot_clock::now();
			std::this_thread::sleep_for(30ms);
			return pglock::reply(answer);
		};
	};
	boot_clock::time_point before = boot_clock::now();

	connection.answer(answer_late(token));

	lease held = lease::acquire(connection, "a", {.ttl = 1h}).value();

	EXPECT_GE(held.deadline(), before + 1h);
	EXPECT_LE(held.deadline(), sent + 1h);
	before = boot_clock::now();
	connection.answer(answer_late("t"));
	EXPECT_TRUE(held.renew(connection));
	EXPECT_GE(held.deadline(), before + 1h);
	EXPECT_LE(held.deadline(), sent + 1h);
}

TEST_F(Lease, ExpiresByItsOwnClock)
{
	lease held = take({.ttl = 40ms});

	while (boot_clock::now() < held.deadline())
		std::this_thread::sleep_for(1ms);
	EXPECT_TRUE(held.expired());
	EXPECT_TRUE(held.renew(connection)) << "nobody has taken it over";
	EXPECT_GT(held.deadline(), boot_clock::now() - 40ms);
}

TEST_F(Lease, AnAcquireThatWaitedRenewsAtOnce)
{
	boot_clock::time_point granted;
	auto grant_late = [&] {
		connection.answer([&] {
			std::this_thread::sleep_for(20ms);
			granted = boot_clock::now();
			return pglock::reply(token);
		});
	};
	const texts both{call_lease + "a|100 ms|NULL|NULL|1", renew + "a|" + token + "|100 ms"};

	grant_late();

	lease held = lease::acquire(connection, "a", {.ttl = 100ms}).value();

	EXPECT_EQ(connection.asked(), both);
	EXPECT_GE(held.deadline(), granted + 100ms);

	// without an answer to that it holds as long as it did
	grant_late();
	connection.fail("08006");
	held = lease::acquire(connection, "a", {.ttl = 100ms}).value();
	EXPECT_EQ(connection.asked(), both);
	EXPECT_LT(held.deadline(), granted + 100ms);
	EXPECT_EQ(held.token(), 1764000000000000);

	grant_late();
	connection.answer("f");
	held = lease::acquire(connection, "a", {.ttl = 100ms}).value();
	EXPECT_TRUE(held.expired());
}

TEST_F(Lease, ARenewalThatIsRefusedLosesIt)
{
	lease held = take();

	connection.answer("f");
	EXPECT_FALSE(held.renew(connection));
	EXPECT_TRUE(held.expired());
}

TEST_F(Lease, ARenewalThatFailsDoesNotLoseIt)
{
	lease held = take();
	auto deadline = held.deadline();

	connection.fail("57014");
	EXPECT_THROW((void)held.renew(connection), pglock::error);
	connection.fail("08006");
	EXPECT_THROW((void)held.renew(connection), pglock::connection_lost);
	EXPECT_EQ(held.deadline(), deadline);
}

TEST_F(Lease, ACheckThatFailsLosesIt)
{
	lease held = take();

	connection.fail("42501");
	EXPECT_THROW(held.check(connection), pglock::error);
	EXPECT_FALSE(held.expired());
	connection.fail("55000", "lease \"a\" is not held with token 1764000000000000");
	try
	{
		held.check(connection);
		FAIL();
	}
	catch (const pglock::lease_lost &error)
	{
		EXPECT_EQ(error.sqlstate(), "55000");
		EXPECT_STREQ(error.what(), "lease \"a\" is not held with token 1764000000000000");
	}
	EXPECT_TRUE(held.expired());
}

TEST_F(Lease, WhatIsReleasedMeanwhileStaysSo)
{
	lease held = take();

	connection.answer([&] {
		EXPECT_TRUE(held.release(elsewhere));
		return pglock::reply("t"); // the server renewed it before
	});
	EXPECT_TRUE(held.renew(connection));
	EXPECT_TRUE(held.expired());
}

TEST_F(Lease, AnOlderAnswerDoesNotCountMore)
{
	lease held = take();
	boot_clock::time_point deadline;

	connection.answer([&] {
		std::this_thread::sleep_for(1ms);
		EXPECT_TRUE(held.renew(elsewhere));
		deadline = held.deadline();
		return pglock::reply("t");
	});
	EXPECT_TRUE(held.renew(connection));
	EXPECT_EQ(held.deadline(), deadline);
}

TEST_F(Lease, AReleaseThatFailsCanBeRepeated)
{
	lease held = take();

	connection.fail("57014");
	EXPECT_THROW(held.release(connection), pglock::error);
	EXPECT_FALSE(held.expired());
	connection.answer("f");
	EXPECT_FALSE(held.release(connection));
	EXPECT_TRUE(held.expired());
}

TEST_F(Lease, OfAnotherProcessIsKnownByItsToken)
{
	lease adopted("a", 1764000000000000, {.ttl = 7s});

	EXPECT_EQ(adopted.token(), 1764000000000000);
	EXPECT_TRUE(adopted.expired()) << "who knows since when it is held";
	EXPECT_TRUE(adopted.renew(connection));
	EXPECT_FALSE(adopted.expired());
	EXPECT_TRUE(adopted.release(connection));
	EXPECT_EQ(connection.asked(),
			  (texts{renew + "a|" + token + "|7000 ms", release + "a|" + token}))
		<< "the server has to count as we do";
}

TEST_F(Lease, IsUsedByAForkedProcessOverItsOwnConnection)
{
	lease held = take();

	EXPECT_TRUE(in_child([&] {
		fake::connection own;

		try
		{
			(void)held.renew(connection);
			return false;
		}
		catch (const pglock::connection_lost &)
		{
			return held.renew(own) && connection.asked().empty();
		}
	}));
}

TEST_F(Lease, IsPreparedOutsideBlocks)
{
	fake::preparing_connection preparing;

	preparing.answer("");
	preparing.answer(token);

	lease held = lease::acquire(preparing, "a").value();

	EXPECT_TRUE(held.renew(preparing));
	EXPECT_TRUE(held.renew(preparing));
	preparing.status = transaction_status::open;
	held.check(preparing);

	auto asked = preparing.asked();

	ASSERT_EQ(asked.size(), 6u);
	EXPECT_EQ(asked[1], "EXECUTE pglock_lease_1|a|30000 ms|NULL|NULL|1");
	EXPECT_EQ(asked[4], std::string("EXECUTE pglock_renew_lease_1|a|") + token + "|30000 ms");
	EXPECT_EQ(asked[5], check + "a|" + token);
}

TEST_F(Lease, AGuardReleasesAtItsEnd)
{
	{
		lease_guard held = guard({.ttl = 15s});

		EXPECT_EQ(held.token(), 1764000000000000);
		EXPECT_TRUE(held.renew());
		held.check();
		EXPECT_FALSE(held.expired());
	}
	EXPECT_EQ(connection.asked(), (texts{renew + "a|" + token + "|15000 ms", check + "a|" + token,
										 release + "a|" + token}));
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(Lease, AGuardThrowsWhenTheTimePasses)
{
	connection.fail("55P03", "could not acquire lease \"a\" in time");
	try
	{
		lease_guard late(connection, "a", {.timeout = 5s});
		FAIL();
	}
	catch (const pglock::timeout_error &error)
	{
		EXPECT_EQ(error.sqlstate(), "55P03");
		EXPECT_STREQ(error.what(), "could not acquire lease \"a\" in time");
	}
	EXPECT_EQ(connection.asked().size(), 1u) << "nothing to release";
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(Lease, AGuardRollsBackBeforeItReleasesAfterAnException)
{
	const std::string released = release + "a|" + token;

	EXPECT_EQ(fail_under_guard(transaction_status::open), (texts{"ROLLBACK", released}));
	EXPECT_EQ(fail_under_guard(transaction_status::failed), (texts{"ROLLBACK", released}));
	EXPECT_EQ(fail_under_guard(transaction_status::idle), texts{released});
	EXPECT_EQ(fail_under_guard(transaction_status::open, {.rollback_on_error = false}),
			  texts{released});
	connection.status = transaction_status::idle;
	{
		lease_guard held = guard();

		connection.status = transaction_status::failed;
	}
	EXPECT_EQ(connection.asked(), (texts{"ROLLBACK", released})) << "without exception";
	{
		lease_guard held = guard();

		connection.status = transaction_status::open;
	}
	EXPECT_EQ(connection.asked(), texts{released}) << "released with the transaction";
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(Lease, WhatFailsAtAGuardsEndGoesToTheHandler)
{
	{
		lease_guard held = guard();

		connection.fail("57014", "canceled");
	}
	EXPECT_EQ(heard.all(), texts{"a: canceled"});
	{
		lease_guard held = guard();

		connection.status = transaction_status::busy;
	}
	EXPECT_EQ(heard.all().size(), 2u);
	EXPECT_TRUE(connection.memory.session()->owed.empty());
	EXPECT_FALSE(connection.closed) << "the lease ends by itself";
}

TEST_F(Lease, AGuardsReleaseThatFailsIsRepeated)
{
	{
		lease_guard held = guard();

		connection.fail("57014");
		EXPECT_THROW(held.release(), pglock::error);
		EXPECT_FALSE(held.expired());
	}
	EXPECT_EQ(connection.asked().size(), 2u);
	{
		lease_guard held = guard();

		connection.answer("f");
		EXPECT_NO_THROW(held.release());
		held.release();
		EXPECT_TRUE(held.expired());
	}
	EXPECT_EQ(connection.asked().size(), 1u);
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(Lease, AGuardMoves)
{
	std::optional<lease_guard> outer;
	{
		lease_guard inner = guard();

		outer.emplace(std::move(inner));
		EXPECT_THROW((void)inner.lease(), std::logic_error);
		EXPECT_THROW((void)inner.renew(), std::logic_error);
		EXPECT_THROW(inner.check(), std::logic_error);
		EXPECT_THROW(inner.release(), std::logic_error);
		EXPECT_THROW((void)inner.token(), std::logic_error);
		EXPECT_THROW((void)inner.expired(), std::logic_error);
	}
	EXPECT_TRUE(connection.asked().empty());
	connection.answer("42");
	*outer = lease_guard(connection, "b");
	EXPECT_EQ(connection.asked()[1], release + "a|" + token) << "gives back what it held";
	outer.reset();
	EXPECT_EQ(connection.asked(), texts{release + "b|42"});
}

TEST_F(Lease, AnotherProcessForgetsTheGuardAndSendsNothing)
{
	std::optional<lease_guard> held(guard());

	connection.status = transaction_status::failed;
	EXPECT_TRUE(in_child([&] {
		try
		{
			(void)held->renew();
			return false;
		}
		catch (const pglock::connection_lost &)
		{
		}
		held.reset();
		return connection.asked().empty() && heard.all().empty();
	}));
	held.reset();
	EXPECT_EQ(connection.asked(), (texts{"ROLLBACK", release + "a|" + token}));
}

TEST_F(Lease, AGuardMayOutliveItsConnection)
{
	auto own = std::make_unique<fake::connection>();

	own->answer(token);
	{
		lease_guard held(*own, "a");

		own.reset();
		EXPECT_THROW((void)held.renew(), pglock::connection_lost);
		EXPECT_FALSE(held.expired()) << "another connection may renew it";
		EXPECT_TRUE(held.lease().renew(connection));
	}
	EXPECT_EQ(heard.all(), texts{"a: the connection for \"a\" is closed"});
}

TEST_F(Lease, AGuardGoesOnInANewSession)
{
	{
		lease_guard held = guard();

		connection.memory.renew();
		connection.memory.renew();
		EXPECT_TRUE(held.renew());
	}
	EXPECT_EQ(connection.asked().size(), 2u);
	EXPECT_TRUE(heard.all().empty());

	auto own = std::make_unique<fake::connection>();

	own->answer(token);
	{
		lease_guard held(*own, "a");

		own->memory.renew();
		own.reset();
	}
	EXPECT_EQ(heard.all().size(), 1u);
}

TEST_F(Lease, AGuardKeepsAConnectionThatIsHandedOver)
{
	auto own = std::make_shared<fake::connection>();

	own->answer(token);
	{
		lease_guard held(std::exchange(own, nullptr), "a");

		EXPECT_TRUE(held.renew());
	}
	EXPECT_TRUE(heard.all().empty());
}

TEST_F(Lease, WhatTakesNoTimeHasADeadline)
{
	fake::timed_traits::limits.clear();

	auto timed = pglock::through<fake::timed_traits>(connection);
	{
		lease_guard held(timed, "a");

		EXPECT_TRUE(held.renew());
		EXPECT_TRUE(held.lease().renew(timed, 100s));
		EXPECT_TRUE(held.lease().held(timed));
		held.check();
		connection.status = transaction_status::failed;
	}
	EXPECT_EQ(fake::timed_traits::limits, (std::vector<long>{-1, 5, 100, 5, -1, 5, 5}));
	fake::timed_traits::limits.clear();
	connection.status = transaction_status::idle;
	{
		lease_guard held(timed, "a", {.timeout = 60s, .grace = 20s});
	}
	EXPECT_EQ(fake::timed_traits::limits, (std::vector<long>{80, 20}));
}
