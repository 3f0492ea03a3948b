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
/// ever, since behind a pooler a session may have it from another program.
struct statement
{
	std::size_t index;
	const char *name;
	const char *text;
};

/// (key): for ever, exclusive. A constant costs the server less than a parameter.
inline constexpr statement lock_statement{0, "pglock_lock_1", "CALL pglock.lock($1::text)"};
/// (key, timeout, shared)
inline constexpr statement lock_in_time_statement{
	1, "pglock_lock_in_time_1", "CALL pglock.lock($1::text, $2::interval, $3::boolean)"};
/// (key, timeout, shared, scope)
inline constexpr statement acquire_statement{
	2, "pglock_acquire_1", "SELECT pglock.acquire($1::text, $2::interval, $3::boolean, $4::text)"};
/// (key, shared, scope)
inline constexpr statement try_statement{3, "pglock_try_1",
										 "SELECT pglock.try($1::text, $2::boolean, $3::text)"};
/// (key)
inline constexpr statement release_statement{4, "pglock_release_1",
											 "SELECT pglock.release($1::text, false)"};
/// (key)
inline constexpr statement release_shared_statement{5, "pglock_release_shared_1",
													"SELECT pglock.release($1::text, true)"};
/// (keys, timeout, shared, scope)
inline constexpr statement acquire_all_statement{
	6, "pglock_acquire_all_1",
	"SELECT pglock.acquire_all($1::text[], $2::interval, $3::boolean, $4::text)"};
/// (keys, shared): one level of each
inline constexpr statement release_each_statement{
	7, "pglock_release_each_1",
	"SELECT pg_catalog.bool_and(pglock.release(key, $2::boolean)) "
	"FROM pg_catalog.unnest($1::text[]) AS key"};

/// After so many troubles with prepared statements a connection does without.
inline constexpr unsigned most_troubles = 3;

/// Did the server refuse to run a prepared statement because it is not there, or is another one?
[[nodiscard]] inline bool
is_statement_trouble(std::string_view sqlstate) noexcept
{
	return sqlstate == "26000" || sqlstate == "42P05" || sqlstate == "08P01";
}

[[nodiscard]] inline reply
run_prepared(connection_ref connection, session &session, const statement &what, parameters values)
{
	if (!session.prepared[what.index])
	{
		try
		{
			connection.prepare(what.name, what.text);
		}
		catch (const error &failure)
		{
			// behind a pooler another program may have prepared it
			if (failure.sqlstate() != "42P05" || connection.status() != transaction_status::idle)
				throw;
		}
		session.prepared.set(what.index);
	}
	return connection.execute_prepared(what.name, values);
}

/// Runs a statement, in one round trip but for the first time. Outside a transaction block trouble
/// with its prepared form is made good; inside, it has cost the transaction, and is passed on.
[[nodiscard]] inline reply
run(connection_ref connection, session &session, statements how, const statement &what,
	parameters values)
{
	bool is_idle = connection.status() == transaction_status::idle;
	bool prepares = connection.can_prepare() && session.troubles < most_troubles &&
					(how == statements::prepared || (how == statements::automatic && is_idle));

	if (prepares)
	{
		try
		{
			return run_prepared(connection, session, what, values);
		}
		catch (const error &failure)
		{
			if (!is_statement_trouble(failure.sqlstate()))
				throw;
			session.prepared.reset(what.index);
			session.troubles++;
			if (!is_idle || connection.lost())
				throw;
		}
	}
	return connection.execute(what.text, values);
}
} // namespace pglock::detail
