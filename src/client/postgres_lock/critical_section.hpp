// critical_section.hpp: locks or a lease, the statements that need them, and COMMIT: in one round
// trip, over libpq 14 or later.
#pragma once

#include <array>
#include <concepts>
#include <libpq-fe.h>
#include <span>
#include <utility>
#include <vector>

#include "detail/critical_section.hpp"
#include "detail/entrance.hpp"
#include "detail/keys.hpp"
#include "lease.hpp"
#include "options.hpp"
#include "query.hpp"

namespace pglock
{
/// Runs the statements in a transaction that holds the lock, and commits. All of it is one round
/// trip: BEGIN, the wait for the lock, the statements and COMMIT go out together, and the server
/// does not begin with a statement before the lock is held, nor releases it before they are
/// committed. The isolation level is READ COMMITTED, so the statements see what the last holder
/// wrote. Returns what each statement answered.
///
/// Takes one key, several in braces, or a range of them, see `guard`: all the locks or none, with
/// one timeout for all. Throws `std::invalid_argument` if there are no keys.
///
/// If the lock is refused, or a statement or COMMIT fails, all is rolled back, which takes one more
/// round trip, and the connection is as it was. Throws `timeout_error` if the options have a
/// timeout and it passes, `stopped_error` if stop was requested, `deadlock_error`,
/// `connection_lost` if COMMIT was not sent, or `error` with the number of the statement at the end
/// of its message: with 25001 in a transaction block, and without SQLSTATE if the connection is
/// busy or in pipeline mode. After these nothing has been done.
///
/// Throws `outcome_unknown`, a `connection_lost`, if the connection breaks before the server has
/// told of COMMIT, or the server does not answer in time, or libpq has no memory to go on; the
/// connection is closed then. Throws `result_lost` if the work is committed and there was no memory
/// for an answer. After these two don't just do it again.
///
/// The deadline of a timeout and `options::grace` is for the lock. How long the statements may
/// take after that the library does not know: see `statement_timeout` and `tcp_user_timeout`.
///
/// Throws `std::invalid_argument` for options with session scope, and `std::system_error`
/// (`resource_deadlock_would_occur`) if an object holds the lock on this connection.
///
/// Of the options `rollback_on_error`, `keep_alive` and `observer` make no difference, and
/// `statements` is for BEGIN, for the statement that takes the lock, and for COMMIT. If one of
/// these turns out not to be prepared any more, all is rolled back and sent once more without;
/// after three times the connection does without at once. DISCARD ALL and DEALLOCATE ALL on the
/// connection itself cost nothing: the library hears of them. All answers are kept in memory.
inline std::vector<result>
critical_section(PGconn *connection, detail::keys_argument keys, const options &options,
				 std::span<const query> queries)
{
	return detail::critical_section(connection, detail::entrance(std::move(keys), options))
		.run(queries);
}

/// The same: `pglock::critical_section(connection, "key", {.timeout = 5s}, "UPDATE ...", "...")`.
template <std::convertible_to<query>... Queries>
requires(sizeof...(Queries) >
		 0) std::vector<result> critical_section(PGconn *connection, detail::keys_argument keys,
												 const options &options, Queries &&...queries)
{
	std::array<query, sizeof...(Queries)> all{std::forward<Queries>(queries)...};

	return critical_section(connection, std::move(keys), options, std::span<const query>(all));
}

/// The same, waiting for ever: `pglock::critical_section(connection, "key", "UPDATE ...", "...")`.
template <std::convertible_to<query>... Queries>
requires(sizeof...(Queries) > 0) std::vector<result> critical_section(PGconn *connection,
																	  detail::keys_argument keys,
																	  Queries &&...queries)
{
	return critical_section(connection, std::move(keys), options(),
							std::forward<Queries>(queries)...);
}

/// Runs the statements in a transaction that checks the lease first, as `lease::check()` does, and
/// commits: in one round trip, too. Nobody can take the lease over before they are committed, and
/// if it is not held any more, none of them is run: that throws `lease_lost`, and the lease knows.
/// Whose lease it is does not matter, nor over which connection it was taken:
/// `pglock::lease(key, token)` stands for that of somebody else.
///
/// Otherwise as the critical section of a lock. The options are those of the lease; there is no
/// limit of time.
template <std::same_as<lease> Lease>
std::vector<result>
critical_section(PGconn *connection, const Lease &held, std::span<const query> queries)
{
	return detail::critical_section(connection, detail::entrance(held.state())).run(queries);
}

/// The same: `pglock::critical_section(connection, guard.lease(), "UPDATE ...", "...")`.
template <std::same_as<lease> Lease, std::convertible_to<query>... Queries>
requires(sizeof...(Queries) > 0) std::vector<result> critical_section(PGconn *connection,
																	  const Lease &held,
																	  Queries &&...queries)
{
	std::array<query, sizeof...(Queries)> all{std::forward<Queries>(queries)...};

	return critical_section(connection, held, std::span<const query>(all));
}
} // namespace pglock
