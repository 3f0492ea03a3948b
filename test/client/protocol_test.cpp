// The operations as state machines: each reply, each error, and a cancellation at each step.
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include <gtest/gtest.h>
#include <postgres_lock/detail/blocking_hold.hpp>
#include <postgres_lock/detail/protocol.hpp>

#include "fake.hpp"

using namespace std::chrono_literals;
using pglock::transaction_status;
using pglock::detail::acquisition;
using pglock::detail::hold;
using pglock::detail::wait_time;
using outcome = acquisition::outcome;
using texts = std::vector<std::string>;

namespace
{
const wait_time for_ever;

const std::string call = "CALL pglock.lock($1::text)|a";
const std::string call_in_time =
	"CALL pglock.lock($1::text, $2::interval, $3::boolean)|a|5000 ms|f";
const std::string held = "SELECT pglock.held($1::text)|a";
const std::string release = "SELECT pglock.release($1::text, false)|a";
const std::string savepoint = "SAVEPOINT pglock_wait";
const std::string roll_back_to = "ROLLBACK TO SAVEPOINT pglock_wait";
const std::string drop = "RELEASE SAVEPOINT pglock_wait";

std::string
attempt(const std::string &scope)
{
	return "SELECT pglock.try($1::text, $2::boolean, $3::text)|a|f|" + scope;
}

std::string
acquire(const std::string &scope)
{
	return "SELECT pglock.acquire($1::text, $2::interval, $3::boolean, $4::text)|a|NULL|f|" + scope;
}

/// Never: no such step.
using fake::never;

class Protocol : public testing::Test
{
  protected:
	fake::connection connection;

	[[nodiscard]] std::size_t
	announced()
	{
		return connection.memory.session()->holds.size();
	}

	template <typename Machine>
	void
	drive(Machine &machine, unsigned cancel_at = never)
	{
		fake::drive(connection, machine, cancel_at);
	}

	outcome
	take(hold &wanted, const wait_time &time = for_ever, unsigned cancel_at = never)
	{
		acquisition machine(wanted, time);

		drive(machine, cancel_at);
		return machine.result();
	}
};

/// In a transaction block, at both scopes.
class InBlock : public Protocol, public testing::WithParamInterface<pglock::scope>
{
  protected:
	InBlock()
	{
		connection.status = transaction_status::open;
	}

	[[nodiscard]] bool
	is_session() const
	{
		return GetParam() == pglock::scope::session;
	}

	[[nodiscard]] std::string
	scope() const
	{
		return is_session() ? "session" : "transaction";
	}

	hold wanted{connection, {"a"}, {.scope = GetParam()}};
};

INSTANTIATE_TEST_SUITE_P(, InBlock,
						 testing::Values(pglock::scope::session, pglock::scope::transaction),
						 [](auto &tested) {
							 return tested.param == pglock::scope::session ? "Session"
																		   : "Transaction";
						 });
} // namespace

TEST_F(Protocol, TakesInOneStep)
{
	hold wanted(connection, {"a"}, {});

	EXPECT_EQ(take(wanted), outcome::taken);
	EXPECT_EQ(connection.asked(), texts{call});
	EXPECT_EQ(wanted.depth(), 1U);
	EXPECT_EQ(announced(), 1U);
}

TEST_F(Protocol, FirstReleasesWhatCouldNotBe)
{
	hold wanted(connection, {"a"}, {});

	connection.memory.session()->owed = {{"a", false, ""}, {"b", true, ""}, {"c", false, "3"}};
	EXPECT_EQ(take(wanted), outcome::taken);
	EXPECT_EQ(connection.asked(),
			  (texts{"SELECT pglock.release($1::text, false)|a",
					 "SELECT pglock.release($1::text, true)|b",
					 "SELECT pglock.release_slot($1::text, $2::integer)|c|3", call}));
	EXPECT_TRUE(connection.memory.session()->owed.empty());
}

TEST_F(Protocol, TimeoutIsARefusal)
{
	hold wanted(connection, {"a"}, {});

	connection.fail("55P03", "could not acquire lock \"a\" within 5 s");
	EXPECT_EQ(take(wanted, 5s), outcome::refused);
	EXPECT_EQ(connection.asked(), texts{call_in_time});
	EXPECT_EQ(wanted.depth(), 0U);
	EXPECT_EQ(announced(), 0U);
}

TEST_F(Protocol, LockTimeoutIsAnError)
{
	hold wanted(connection, {"a"}, {});

	connection.fail("55P03", "canceling statement due to lock timeout");
	EXPECT_THROW(take(wanted, 5s), pglock::error);
	EXPECT_EQ(announced(), 0U);
}

TEST_F(Protocol, TryIsAnAttemptOnly)
{
	hold wanted(connection, {"a"}, {});

	connection.answer("f");
	EXPECT_EQ(take(wanted, 0ms), outcome::refused);
	EXPECT_EQ(connection.asked(), texts{attempt("session")});
	EXPECT_EQ(take(wanted, -1ms, 0), outcome::cancelled);
	EXPECT_EQ(connection.asked(), (texts{attempt("session"), release}));
	EXPECT_EQ(announced(), 0U);
}

TEST_F(Protocol, OnlyTheWaitIsToBeInterrupted)
{
	hold wanted(connection, {"a"}, {});
	acquisition machine(wanted, for_ever);

	EXPECT_FALSE(machine.is_waiting());
	(void)machine.next();
	EXPECT_TRUE(machine.is_waiting());
	machine.succeeded({});
	EXPECT_FALSE(machine.is_waiting());
	EXPECT_FALSE(machine.next());
}

TEST_F(Protocol, CancelledBeforeItBegins)
{
	hold wanted(connection, {"a"}, {});
	acquisition machine(wanted, for_ever);

	machine.cancel();
	drive(machine);
	EXPECT_EQ(machine.result(), outcome::cancelled);
	EXPECT_EQ(connection.asked(), texts{});
	EXPECT_EQ(announced(), 0U);
}

TEST_F(Protocol, CancelledWaitEndsWithTheServersError)
{
	hold wanted(connection, {"a"}, {});

	connection.fail("57014");
	EXPECT_EQ(take(wanted, for_ever, 0), outcome::cancelled);
	EXPECT_EQ(connection.asked(), texts{call});
	EXPECT_EQ(announced(), 0U);
}

TEST_F(Protocol, CancelledTooLateIsGivenBack)
{
	hold wanted(connection, {"a"}, {});

	EXPECT_EQ(take(wanted, for_ever, 0), outcome::cancelled);
	EXPECT_EQ(connection.asked(), (texts{call, release}));
	EXPECT_EQ(wanted.depth(), 0U);
	EXPECT_EQ(announced(), 0U);

	connection.fail("55P03", "could not acquire lock \"a\" within 5 s");
	EXPECT_EQ(take(wanted, 5s, 0), outcome::cancelled) << "nothing to give back after a timeout";
	EXPECT_EQ(connection.asked(), texts{call_in_time});
}

TEST_F(Protocol, WhatCannotBeGivenBackIsKnownToBeHeld)
{
	hold wanted(connection, {"a"}, {});

	connection.answer("");
	connection.fail("53200");
	EXPECT_THROW(take(wanted, for_ever, 0), pglock::error);
	EXPECT_EQ(wanted.depth(), 1U);
	EXPECT_EQ(announced(), 1U);
}

TEST_F(Protocol, CancelByOthersIsAnError)
{
	hold wanted(connection, {"a"}, {});

	connection.fail("57014");
	EXPECT_THROW(take(wanted), pglock::error);
	EXPECT_EQ(announced(), 0U);
}

TEST_F(Protocol, LostConnectionIsAnErrorThoughCancelled)
{
	hold wanted(connection, {"a"}, {});

	connection.fail("57P01");
	EXPECT_THROW(take(wanted, for_ever, 0), pglock::connection_lost);
	EXPECT_EQ(announced(), 0U);
}

TEST_F(Protocol, OfWhatIsNotFinishedNothingIsAnnounced)
{
	hold wanted(connection, {"a"}, {});
	{
		acquisition machine(wanted, for_ever);

		(void)machine.next();
		EXPECT_EQ(announced(), 1U);
	}
	EXPECT_EQ(announced(), 0U);
}

TEST_F(Protocol, WhatAnotherOperationHasAnnouncedStays)
{
	hold wanted(connection, {"a"}, {});
	acquisition first(wanted, for_ever);

	(void)first.next();
	connection.status = transaction_status::busy;
	EXPECT_THROW(take(wanted), pglock::error);
	{
		acquisition cancelled(wanted, for_ever);

		cancelled.cancel();
		drive(cancelled);
		EXPECT_EQ(cancelled.result(), outcome::cancelled);
	}
	EXPECT_EQ(announced(), 1U);
	first.succeeded({});
	EXPECT_FALSE(first.next());
	EXPECT_EQ(wanted.depth(), 1U);
	EXPECT_EQ(announced(), 1U);
}

TEST_F(Protocol, MisuseIsFoundWithoutAskingTheServer)
{
	hold in_transaction(connection, {"a"}, {.scope = pglock::scope::transaction});

	EXPECT_THROW(take(in_transaction), pglock::error) << "no transaction block";

	hold wanted(connection, {"a"}, {});
	hold other(connection, {"a"}, {});

	EXPECT_EQ(take(wanted), outcome::taken);
	(void)connection.asked();
	EXPECT_THROW(take(wanted), pglock::acquire_error);
	EXPECT_THROW(take(other), std::system_error);
	connection.status = transaction_status::busy;
	EXPECT_THROW(take(wanted), pglock::error);
	EXPECT_EQ(connection.asked(), texts{});
	EXPECT_EQ(wanted.depth(), 1U);
	connection.status = transaction_status::idle;
	connection.memory.renew();
	EXPECT_THROW(take(wanted), pglock::connection_lost);
}

TEST_F(Protocol, SharedIsTakenAgain)
{
	hold wanted(connection, {"a"}, {.shared = true});

	EXPECT_EQ(take(wanted), outcome::taken);
	EXPECT_EQ(take(wanted), outcome::taken);
	EXPECT_EQ(wanted.depth(), 2U);
	EXPECT_EQ(take(wanted, for_ever, 0), outcome::cancelled);
	EXPECT_EQ(wanted.depth(), 2U);
	EXPECT_EQ(announced(), 1U);
}

TEST_P(InBlock, WhatIsFreeIsTakenInOneStep)
{
	EXPECT_EQ(take(wanted), outcome::taken);
	EXPECT_EQ(connection.asked(), texts{attempt(scope())});
}

TEST_P(InBlock, WaitsBehindASavepoint)
{
	connection.answer("f");
	EXPECT_EQ(take(wanted), outcome::taken);
	EXPECT_EQ(connection.asked(), (texts{attempt(scope()), savepoint, acquire(scope()), drop}));
	EXPECT_EQ(wanted.depth(), 1U);
}

TEST_P(InBlock, TimeoutLeavesNoSavepoint)
{
	connection.answer("f");
	connection.answer("");
	connection.answer("f");
	EXPECT_EQ(take(wanted, 5s), outcome::refused);
	EXPECT_EQ(connection.asked().back(), drop);
	EXPECT_EQ(announced(), 0U);
}

TEST_P(InBlock, EachErrorIsPassedOn)
{
	for (unsigned failing = 0; failing < 4; failing++)
	{
		for (unsigned step = 0; step < failing; step++)
			connection.answer(step == 0 ? "f" : "t");
		connection.fail("40P01");
		EXPECT_THROW(take(wanted), pglock::deadlock_error) << "at step " << failing;
		EXPECT_EQ(connection.asked().size(), failing + 1);
		// only when the lock had been granted already is it held
		EXPECT_EQ(wanted.depth(), failing == 3 ? 1U : 0U) << "at step " << failing;
		wanted.forget();
		EXPECT_EQ(announced(), 0U);
	}
}

TEST_P(InBlock, EachLossOfTheConnectionLeavesNothing)
{
	for (unsigned failing = 0; failing < 4; failing++)
	{
		for (unsigned step = 0; step < failing; step++)
			connection.answer(step == 0 ? "f" : "t");
		connection.fail("57P01");
		EXPECT_THROW(take(wanted, for_ever, failing), pglock::connection_lost);
		EXPECT_EQ(connection.asked().size(), failing + 1);
		EXPECT_EQ(wanted.depth(), 0U) << "at step " << failing;
		EXPECT_EQ(announced(), 0U);
	}
}

TEST_P(InBlock, CancelledDuringTheAttempt)
{
	connection.answer("f");
	EXPECT_EQ(take(wanted, for_ever, 0), outcome::cancelled);
	EXPECT_EQ(connection.asked(), texts{attempt(scope())});
	EXPECT_EQ(announced(), 0U);

	if (is_session())
	{
		EXPECT_EQ(take(wanted, for_ever, 0), outcome::cancelled);
		EXPECT_EQ(connection.asked(), (texts{attempt(scope()), release}));
		EXPECT_EQ(announced(), 0U);
	}
	else
	{
		EXPECT_EQ(take(wanted, for_ever, 0), outcome::taken) << "it is too late";
		EXPECT_EQ(connection.asked(), texts{attempt(scope())});
		EXPECT_EQ(wanted.depth(), 1U);
	}
}

TEST_P(InBlock, CancelledDuringTheSavepoint)
{
	connection.answer("f");
	EXPECT_EQ(take(wanted, for_ever, 1), outcome::cancelled);
	EXPECT_EQ(connection.asked(), (texts{attempt(scope()), savepoint, drop}));
	EXPECT_EQ(announced(), 0U);
}

TEST_P(InBlock, CancelledDuringTheWait)
{
	connection.answer("f");
	connection.answer("");
	connection.fail("57014");
	EXPECT_EQ(take(wanted, for_ever, 2), outcome::cancelled);
	EXPECT_EQ(connection.asked(),
			  (texts{attempt(scope()), savepoint, acquire(scope()), roll_back_to, drop}));
	EXPECT_EQ(announced(), 0U);
}

TEST_P(InBlock, CancelledAsTheLockIsGranted)
{
	connection.answer("f");
	EXPECT_EQ(take(wanted, for_ever, 2), outcome::cancelled);
	EXPECT_EQ(connection.asked(), (texts{attempt(scope()), savepoint, acquire(scope()),
										 is_session() ? release : roll_back_to, drop}));
	EXPECT_EQ(wanted.depth(), 0U);
	EXPECT_EQ(announced(), 0U);
}

TEST_P(InBlock, CancelledAfterTheWait)
{
	connection.answer("f");
	EXPECT_EQ(take(wanted, for_ever, 3), is_session() ? outcome::cancelled : outcome::taken);
	EXPECT_EQ(connection.asked().back(), is_session() ? release : drop);
	EXPECT_EQ(wanted.depth(), is_session() ? 0U : 1U);
}

TEST_F(Protocol, SeveralKeysAreOneRequest)
{
	const std::string all =
		"SELECT pglock.acquire_all($1::text[], $2::interval, $3::boolean, $4::text)"
		"|{\"a\",\"b\"}|";
	hold wanted(connection, {"b", "a"}, {});

	EXPECT_EQ(take(wanted), outcome::taken);
	EXPECT_EQ(connection.asked(), texts{all + "NULL|f|session"});
	wanted.forget();
	connection.status = transaction_status::open;
	connection.answer("f");
	EXPECT_EQ(take(wanted), outcome::taken);
	EXPECT_EQ(connection.asked(),
			  (texts{all + "0 ms|f|session", savepoint, all + "NULL|f|session", drop}));
}

TEST_F(Protocol, TakesASlot)
{
	const std::string release_slot = "SELECT pglock.release_slot($1::text, $2::integer)|a|3";
	hold wanted(connection, {"a"}, {}, 4);

	connection.answer("3");
	EXPECT_EQ(take(wanted), outcome::taken);
	EXPECT_EQ(wanted.slot(), 3);
	EXPECT_EQ(connection.asked(),
			  texts{"CALL pglock.slot($1::text, $2::integer, $3::interval)|a|4|NULL"});

	pglock::detail::restitution one(wanted, false);

	drive(one);
	EXPECT_TRUE(one.result());
	EXPECT_EQ(connection.asked(), texts{release_slot});

	connection.answer("3");
	EXPECT_EQ(take(wanted, for_ever, 0), outcome::cancelled) << "too late: it is given back";
	EXPECT_EQ(connection.asked()[1], release_slot);
	connection.fail("55P03", "could not acquire a slot of \"a\" in time");
	EXPECT_EQ(take(wanted, 5s), outcome::refused);
	connection.fail("55P03", "canceling statement due to lock timeout");
	EXPECT_THROW(take(wanted, 5s), pglock::error);
	connection.answer([] { return pglock::reply(); });
	EXPECT_EQ(take(wanted, 0s), outcome::refused);
	EXPECT_EQ(wanted.depth(), 0U);
}

TEST_P(InBlock, TakesASlot)
{
	const std::string attempt = "SELECT pglock.try_slot($1::text, $2::integer, $3::text)|a|4|";
	const std::string acquire =
		"SELECT pglock.acquire_slot($1::text, $2::integer, $3::interval, $4::text)|a|4|NULL|";
	hold slot(connection, {"a"}, {.scope = GetParam()}, 4);
	auto none = [] { return pglock::reply(); };

	connection.answer(none);
	connection.answer("");
	connection.answer("2");
	EXPECT_EQ(take(slot), outcome::taken);
	EXPECT_EQ(slot.slot(), 2);
	EXPECT_EQ(connection.asked(), (texts{attempt + scope(), savepoint, acquire + scope(), drop}));
	EXPECT_THROW(take(slot), pglock::acquire_error) << "that is another object's";
	slot.forget();
	(void)connection.asked();

	connection.answer(none);
	connection.answer("");
	connection.answer("2");
	EXPECT_EQ(take(slot, for_ever, 2), outcome::cancelled);
	EXPECT_EQ(connection.asked()[3], is_session()
										 ? "SELECT pglock.release_slot($1::text, $2::integer)|a|2"
										 : roll_back_to);

	connection.answer(none);
	connection.answer("");
	connection.answer(none);
	EXPECT_EQ(take(slot, 5s), outcome::refused);
	EXPECT_EQ(connection.asked().back(), drop);
	EXPECT_EQ(slot.depth(), 0U);
}

TEST_F(Protocol, AsksWhetherAnEndedTransactionKeepsTheLock)
{
	connection.status = transaction_status::open;

	hold first(connection, {"a"}, {.scope = pglock::scope::transaction});
	hold second(connection, {"a"}, {.scope = pglock::scope::transaction});

	EXPECT_EQ(take(first), outcome::taken);
	(void)connection.asked();
	EXPECT_THROW(take(second), std::system_error);
	EXPECT_EQ(connection.asked(), texts{held});
	EXPECT_THROW(take(first), pglock::acquire_error);
	EXPECT_EQ(connection.asked(), texts{held});

	// another transaction
	connection.answer("f");
	EXPECT_EQ(take(second), outcome::taken);
	EXPECT_EQ(connection.asked(), (texts{held, attempt("transaction")}));
	EXPECT_EQ(first.depth(), 0U);

	// and one more
	connection.answer("f");
	EXPECT_EQ(take(second, for_ever, 0), outcome::cancelled);
	EXPECT_EQ(connection.asked(), texts{held});
	EXPECT_EQ(announced(), 0U);
}

TEST_F(Protocol, GivesOneLevelBack)
{
	hold wanted(connection, {"a"}, {.shared = true});

	EXPECT_EQ(take(wanted), outcome::taken);
	EXPECT_EQ(take(wanted), outcome::taken);
	(void)connection.asked();

	pglock::detail::restitution one(wanted, false);

	drive(one);
	EXPECT_TRUE(one.result());
	EXPECT_EQ(connection.asked(), texts{"SELECT pglock.release($1::text, true)|a"});
	EXPECT_EQ(wanted.depth(), 1U);
}

TEST_F(Protocol, GivesBackNothingIfThereIsNothing)
{
	hold wanted(connection, {"a"}, {});
	pglock::detail::restitution one(wanted, false);

	drive(one);
	EXPECT_FALSE(one.result());
	EXPECT_EQ(connection.asked(), texts{});
}

TEST_F(Protocol, FailedReleases)
{
	hold wanted(connection, {"a"}, {});

	EXPECT_EQ(take(wanted), outcome::taken);
	connection.fail("53200");
	pglock::detail::restitution failing(wanted, false);
	EXPECT_THROW(drive(failing), pglock::error);
	EXPECT_EQ(wanted.depth(), 1U) << "it still is held";

	connection.answer("f");
	pglock::detail::restitution surprised(wanted, false);
	EXPECT_THROW(drive(surprised), pglock::not_held_error);
	EXPECT_EQ(wanted.depth(), 0U);

	EXPECT_EQ(take(wanted), outcome::taken);
	connection.fail("57P01");
	pglock::detail::restitution lost(wanted, false);
	EXPECT_THROW(drive(lost), pglock::connection_lost);
	EXPECT_EQ(wanted.depth(), 0U);

	EXPECT_EQ(take(wanted), outcome::taken);
	connection.memory.renew();
	pglock::detail::restitution late(wanted, false);
	EXPECT_THROW(drive(late), pglock::connection_lost);
}

TEST_F(Protocol, AfterAnErrorRollsBackAndGivesAllBack)
{
	hold wanted(connection, {"a"}, {.shared = true});

	EXPECT_EQ(take(wanted), outcome::taken);
	EXPECT_EQ(take(wanted), outcome::taken);
	(void)connection.asked();
	connection.status = transaction_status::failed;
	connection.answer([this] {
		connection.status = transaction_status::idle;
		return pglock::reply();
	});

	pglock::detail::restitution all(wanted, true);

	drive(all);
	EXPECT_TRUE(all.result());
	EXPECT_EQ(connection.asked(), (texts{"ROLLBACK", "SELECT pglock.release($1::text, true)|a",
										 "SELECT pglock.release($1::text, true)|a"}));
	EXPECT_EQ(announced(), 0U);
}

TEST_F(Protocol, DoesNotPassOverATransactionThatIsBusy)
{
	connection.status = transaction_status::open;

	pglock::detail::blocking_hold wanted(connection, {"a"}, {.scope = pglock::scope::transaction});

	EXPECT_EQ(take(wanted), outcome::taken);
	connection.status = transaction_status::busy;

	pglock::detail::restitution all(wanted, true);

	EXPECT_THROW(drive(all), pglock::error);
	EXPECT_EQ(wanted.levels(), 1U);
	EXPECT_THROW(wanted.handle_error(), pglock::error);
}

TEST_F(Protocol, LeavesTheTransactionAloneIfTold)
{
	connection.status = transaction_status::open;

	hold wanted(connection, {"a"}, {.scope = pglock::scope::session, .rollback_on_error = false});

	EXPECT_EQ(take(wanted), outcome::taken);
	(void)connection.asked();

	pglock::detail::restitution all(wanted, true);

	drive(all);
	EXPECT_EQ(connection.asked(), texts{release});
}

TEST_F(Protocol, TransactionScopeIsNotGivenBack)
{
	connection.status = transaction_status::open;

	hold wanted(connection, {"a"}, {.scope = pglock::scope::transaction});

	for (bool after_error : {false, true})
	{
		EXPECT_EQ(take(wanted), outcome::taken);
		(void)connection.asked();

		pglock::detail::restitution machine(wanted, after_error);
		connection.answer([this] {
			connection.status = transaction_status::idle;
			return pglock::reply();
		});
		drive(machine);
		EXPECT_FALSE(machine.result());
		EXPECT_EQ(connection.asked(), after_error ? texts{"ROLLBACK"} : texts{});
		EXPECT_EQ(announced(), 0U);
		connection.answers.clear();
	}
}

TEST_F(Protocol, AsksForNumbers)
{
	hold wanted(connection, {"a"}, {});
	pglock::detail::question token(wanted, pglock::detail::token_statement, "a");

	connection.answer("4611686018427387904");
	drive(token);
	EXPECT_EQ(token.result(), 4611686018427387904);
	EXPECT_EQ(connection.asked(), texts{"SELECT pglock.token($1::text)|a"});

	pglock::detail::question failing(wanted, pglock::detail::token_statement, "a");

	connection.fail("55000");
	EXPECT_THROW(drive(failing), pglock::error);
}
