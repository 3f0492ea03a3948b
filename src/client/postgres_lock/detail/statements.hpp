// statements.hpp: what the locks say to the server, prepared where that is safe.
#pragma once

#include <cstddef>
#include <string_view>

#include "../connection.hpp"
#include "../error.hpp"
#include "../options.hpp"

namespace pglock::detail
{
/// A statement of the library. The name is that of its prepared form; it belongs to this text for
/// ever, since behind a pooler a session may have it from another program. Without a name it is
/// never prepared.
struct statement
{
	const char *text;
	const char *name = nullptr;
	std::size_t index = 0;
};

/// (key): for ever, exclusive. A constant costs the server less than a parameter.
inline constexpr statement lock_statement{"CALL pglock.lock($1::text)", "pglock_lock_1", 0};
/// (key, timeout, shared)
inline constexpr statement lock_in_time_statement{
	"CALL pglock.lock($1::text, $2::interval, $3::boolean)", "pglock_lock_in_time_1", 1};
/// (key, timeout, shared, scope)
inline constexpr statement acquire_statement{
	"SELECT pglock.acquire($1::text, $2::interval, $3::boolean, $4::text)", "pglock_acquire_1", 2};
/// (key, shared, scope)
inline constexpr statement try_statement{"SELECT pglock.try($1::text, $2::boolean, $3::text)",
										 "pglock_try_1", 3};
/// (key)
inline constexpr statement release_statement{"SELECT pglock.release($1::text, false)",
											 "pglock_release_1", 4};
/// (key)
inline constexpr statement release_shared_statement{"SELECT pglock.release($1::text, true)",
													"pglock_release_shared_1", 5};
/// (keys, timeout, shared, scope)
inline constexpr statement acquire_all_statement{
	"SELECT pglock.acquire_all($1::text[], $2::interval, $3::boolean, $4::text)",
	"pglock_acquire_all_1", 6};
/// (keys, shared): one level of each
inline constexpr statement release_each_statement{
	"SELECT pg_catalog.bool_and(pglock.release(key, $2::boolean)) "
	"FROM pg_catalog.unnest($1::text[]) AS key",
	"pglock_release_each_1", 7};

/// (key, slots, timeout)
inline constexpr statement slot_statement{"CALL pglock.slot($1::text, $2::integer, $3::interval)",
										  "pglock_slot_1", 12};
/// (key, slots, timeout, scope)
inline constexpr statement acquire_slot_statement{
	"SELECT pglock.acquire_slot($1::text, $2::integer, $3::interval, $4::text)",
	"pglock_acquire_slot_1", 13};
/// (key, slots, scope)
inline constexpr statement try_slot_statement{
	"SELECT pglock.try_slot($1::text, $2::integer, $3::text)", "pglock_try_slot_1", 14};
/// (key, slot)
inline constexpr statement release_slot_statement{
	"SELECT pglock.release_slot($1::text, $2::integer)", "pglock_release_slot_1", 15};

/// (key, ttl, timeout, holder, slots)
inline constexpr statement lease_statement{
	"CALL pglock.lease($1::text, $2::interval, $3::interval, $4::text, $5::integer)",
	"pglock_lease_1", 16};
/// (key, ttl, timeout, holder, slots)
inline constexpr statement acquire_lease_statement{
	"SELECT pglock.acquire_lease($1::text, $2::interval, $3::interval, $4::text, $5::integer)",
	"pglock_acquire_lease_1", 17};
/// (key, token, ttl)
inline constexpr statement renew_lease_statement{
	"SELECT pglock.renew_lease($1::text, $2::bigint, $3::interval)", "pglock_renew_lease_1", 18};
/// (key, token)
inline constexpr statement release_lease_statement{
	"SELECT pglock.release_lease($1::text, $2::bigint)", "pglock_release_lease_1", 19};
/// (key, token)
inline constexpr statement check_lease_statement{"SELECT pglock.check_lease($1::text, $2::bigint)",
												 "pglock_check_lease_1", 20};
/// (key, token)
inline constexpr statement holds_lease_statement{"SELECT pglock.holds_lease($1::text, $2::bigint)"};

/// (key)
inline constexpr statement held_statement{"SELECT pglock.held($1::text)"};
/// (key, slot)
inline constexpr statement held_slot_statement{
	"SELECT EXISTS (SELECT FROM pglock.session_holds() AS hold "
	"WHERE hold.lock_id = pglock.lock_id($1::text) AND hold.slot = $2::integer)"};
/// (key)
inline constexpr statement token_statement{"SELECT pglock.token($1::text)"};
/// (key)
inline constexpr statement lock_id_statement{"SELECT pglock.lock_id($1::text)"};

/// Of a critical section. READ COMMITTED, so that its statements see what the last holder wrote.
inline constexpr statement begin_statement{"BEGIN ISOLATION LEVEL READ COMMITTED", "pglock_begin_1",
										   8};
/// (key): for ever, exclusive, at transaction scope.
inline constexpr statement enter_statement{"CALL pglock.lock($1::text, NULL, false, 'transaction')",
										   "pglock_enter_2", 9};
/// (key, timeout, shared): the same
inline constexpr statement enter_in_time_statement{
	"CALL pglock.lock($1::text, $2::interval, $3::boolean, 'transaction')",
	"pglock_enter_in_time_2", 10};
/// What enter_all_statement calls it if the time passes.
inline constexpr std::string_view enter_all_refusal = "could not acquire all in time";
/// (keys, timeout, shared): all of several. Answering false would not keep the server from running
/// what follows, so that is an error: of a text that is no boolean.
inline constexpr statement enter_all_statement{
	"SELECT CASE WHEN pglock.acquire_all($1::text[], $2::interval, $3::boolean, 'transaction') "
	"THEN true ELSE pg_catalog.format('could not acquire all in time: %s', $1::text[])::boolean "
	"END",
	"pglock_enter_all_1", 21};
static_assert(std::string_view(enter_all_statement.text).find(enter_all_refusal) !=
			  std::string_view::npos);
inline constexpr statement commit_statement{"COMMIT", "pglock_commit_1", 11};

/// After so many troubles with prepared statements a connection does without.
inline constexpr unsigned most_troubles = 3;

/// Did the server refuse to run a prepared statement because it is not there, or is another one?
[[nodiscard]] inline bool
is_statement_trouble(std::string_view sqlstate) noexcept
{
	return sqlstate == "26000" || sqlstate == "42P05" || sqlstate == "08P01";
}

/// The way of one statement to its answer: in one message, but for the first time. Outside a
/// transaction block trouble with its prepared form is made good; inside, it has cost the
/// transaction, and is passed on. This only says what to send; who sends it tells how that went.
class exchange
{
  public:
	enum class message : unsigned char { prepare, execute_prepared, execute };

	exchange(connection_ref connection, session &session, statements how, const statement &what)
		: connection_(connection), session_(session), index_(what.index),
		  is_idle_(connection.status() == transaction_status::idle)
	{
		if (what.name != nullptr && connection.can_prepare() && session.troubles < most_troubles &&
			(how == statements::prepared || (how == statements::automatic && is_idle_)))
			next_ = session.prepared[index_] ? message::execute_prepared : message::prepare;
	}

	[[nodiscard]] message
	next() const noexcept
	{
		return next_;
	}

	/// True: that was the answer to the statement.
	[[nodiscard]] bool
	succeeded() noexcept
	{
		if (next_ != message::prepare)
			return true;
		session_.prepared.set(index_);
		next_ = message::execute_prepared;
		return false;
	}

	/// True: there is another message to try. False: the failure is the statement's.
	[[nodiscard]] bool
	recovers(const error &failure) noexcept
	{
		if (next_ == message::execute)
			return false;
		// behind a pooler another program may have prepared it
		if (next_ == message::prepare && failure.sqlstate() == "42P05" &&
			connection_.status() == transaction_status::idle)
			return !succeeded();
		if (!is_statement_trouble(failure.sqlstate()))
			return false;
		session_.prepared.reset(index_);
		session_.troubles++;
		next_ = message::execute;
		return is_idle_ && !connection_.lost();
	}

  private:
	connection_ref connection_;
	session &session_;
	std::size_t index_;
	bool is_idle_;
	message next_ = message::execute;
};

[[nodiscard]] inline reply
send(connection_ref connection, exchange::message message, const statement &what, parameters values,
	 const deadline &until)
{
	switch (message)
	{
		case exchange::message::prepare:
			connection.prepare(what.name, what.text, until);
			return {};
		case exchange::message::execute_prepared:
			return connection.execute_prepared(what.name, values, until);
		default:
			return connection.execute(what.text, values, until);
	}
}

/// Runs a statement, and waits for its answer.
[[nodiscard]] inline reply
run(connection_ref connection, session &session, statements how, const statement &what,
	parameters values, const deadline &until)
{
	exchange exchange(connection, session, how, what);

	for (;;)
	{
		try
		{
			reply answer = send(connection, exchange.next(), what, values, until);

			if (exchange.succeeded())
				return answer;
		}
		catch (const error &failure)
		{
			if (!exchange.recovers(failure))
				throw;
		}
	}
}

} // namespace pglock::detail
