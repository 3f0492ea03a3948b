// pqxx.hpp: locks over libpqxx. `pglock::guard guard(transaction, "key");` for a `pqxx::work` or
// another transaction, `pglock::guard guard(connection, "key");` for a `pqxx::connection`.
//
// One adapter for libpqxx 6.4 to 8: it keeps to what they have in common. Commands are sent as text
// with quoted values, in one round trip; libpqxx has no way to prepare that could be recovered.
#pragma once

#include <concepts>
#include <cstddef>
#include <exception>
#include <pqxx/pqxx>
#include <string>
#include <string_view>
#include <sys/socket.h>

#include "connection.hpp"
#include "detail/alarm.hpp"
#include "detail/socket.hpp"
#include "error.hpp"
#include "lock.hpp"

namespace pglock
{
namespace detail
{
#if PQXX_VERSION_MAJOR < 7
using pqxx_connection = pqxx::connection_base;
#else
using pqxx_connection = pqxx::connection;
#endif

/// The text with values in place of `$1` to `$9`. There are no others in the library's statements.
template <typename Transaction>
[[nodiscard]] std::string
with_values(Transaction &transaction, std::string_view text, parameters values)
{
	std::string made;

	for (std::size_t i = 0; i < text.size(); i++)
		if (text[i] != '$' || i + 1 == text.size() || text[i + 1] < '1' || text[i + 1] > '9')
			made += text[i];
		else
		{
			const char *value = values[static_cast<std::size_t>(text[++i] - '1')];

			made += value != nullptr ? transaction.quote(std::string(value)) : "NULL";
		}
	return made;
}

template <typename Transaction>
[[nodiscard]] reply
run_in(Transaction &transaction, const char *text, parameters values)
{
	auto result = transaction.exec(with_values(transaction, text, values));

	if (result.empty() || result.columns() == 0 || result[0][0].is_null())
		return {};
	return result[0][0].template as<std::string>();
}

[[nodiscard]] inline bool
is_pqxx_lost(const pqxx_connection &connection) noexcept
{
	return !connection.is_open() || is_socket_closed(connection.sock());
}

/// Closes it under libpqxx, which hears of that when it is used.
inline void
close_socket(const pqxx_connection &connection) noexcept
{
	::shutdown(connection.sock(), SHUT_RDWR);
}

/// Nothing for one that is closed, which version 6 would open to tell.
[[nodiscard]] inline std::string
host_of(pqxx_connection &connection)
{
	if (!connection.is_open())
		return {};
#if PQXX_VERSION_MAJOR < 8
	return std::string(connection.hostname()) + ':' + connection.port();
#else
	return std::string(connection.hostname()) + ':' +
		   std::to_string(connection.port_number().value_or(0));
#endif
}

/// Passes on what libpqxx throws as an error of ours.
[[noreturn]] inline void
rethrow_pqxx_error(const pqxx_connection &connection)
{
	try
	{
		throw;
	}
	// in 6 these two have no SQLSTATE, and none of them is a sql_error
	catch (const pqxx::deadlock_detected &failure)
	{
		throw_error("40P01", failure.what());
	}
	catch (const pqxx::serialization_failure &failure)
	{
		throw_error("40001", failure.what());
	}
	// nor has this one before 8
	catch (const pqxx::insufficient_privilege &failure)
	{
		throw_error("42501", failure.what());
	}
	catch (const pqxx::broken_connection &failure)
	{
		throw connection_lost(failure.what(), "08006");
	}
	catch (const pqxx::sql_error &failure)
	{
		throw_error(failure.sqlstate(), failure.what());
	}
	catch (const error &)
	{
		throw;
	}
	catch (const std::exception &failure)
	{
		if (is_pqxx_lost(connection))
			throw connection_lost(failure.what());
		throw error(failure.what());
	}
}

/// Runs what waits for the server, and ends it when the time passes.
template <typename Work>
auto
in_time(const pqxx_connection &connection, const deadline &until, Work work)
{
	alarm alarm(connection.sock(), until);

	try
	{
		return work();
	}
	catch (...)
	{
		if (alarm.has_rung())
			throw connection_lost(no_answer_text);
		rethrow_pqxx_error(connection);
	}
}

/// Runs a command outside a transaction. libpqxx refuses if a transaction object is there.
[[nodiscard]] inline reply
run_alone(pqxx_connection &connection, const char *text, parameters values)
{
	pqxx::nontransaction transaction(connection);

	return run_in(transaction, text, values);
}
} // namespace detail

/// Locks over a connection of libpqxx, while it has no transaction object: for a lock within a
/// transaction give that to the lock. Transactions roll back by themselves, so these locks never
/// do. After libpqxx 6 has opened a broken connection anew, a release throws `not_held_error`.
template <std::derived_from<detail::pqxx_connection> T> struct connection_traits<T>
{
	static reply
	execute(T &connection, const char *text, parameters values, const deadline &until = {})
	{
		return detail::in_time(connection, until,
							   [&] { return detail::run_alone(connection, text, values); });
	}

	static transaction_status
	status(T &) noexcept
	{
		return transaction_status::idle;
	}

	static void
	rollback(T &, const deadline & = {})
	{
	}

	static bool
	lost(T &connection) noexcept
	{
		return detail::is_pqxx_lost(connection);
	}

	static void
	close(T &connection) noexcept
	{
		detail::close_socket(connection);
	}

	static command_control
	control(T &connection)
	{
		if (connection.sock() < 0)
			throw connection_lost("the connection is closed");
		return {[&connection] {
					try
					{
						connection.cancel_query();
					}
					catch (const std::exception &)
					{
						// it is tried again
					}
				},
				detail::hang_up_of(connection.sock())};
	}

	static int
	socket(T &connection) noexcept
	{
		return connection.sock();
	}

	static std::string
	host(T &connection)
	{
		return detail::host_of(connection);
	}

	static const void *
	session(T &connection) noexcept
	{
		return static_cast<detail::pqxx_connection *>(&connection);
	}
};

/// Locks over a transaction object of libpqxx, which has to outlive them. Their scope is that of
/// the transaction if not told otherwise; for a `pqxx::nontransaction` it is the session. A
/// rollback is the object's own `abort()`. They do not survive an error, so a wait can't be stopped
/// (see `options::stop`). A lock at session scope may be released after `commit()`
/// and `abort()`, as it should be, while the object is still there and no other is.
template <std::derived_from<pqxx::transaction_base> T> struct connection_traits<T>
{
	static reply
	execute(T &transaction, const char *text, parameters values, const deadline &until = {})
	{
		return detail::in_time(as_base(transaction).conn(), until, [&] {
			// first, as who asks does not tell whether the transaction has ended
			try
			{
				return detail::run_in(as_base(transaction), text, values);
			}
			catch (const pqxx::usage_error &)
			{
				return detail::run_alone(as_base(transaction).conn(), text, values);
			}
		});
	}

	static transaction_status
	status(T &transaction) noexcept
	{
		return is_block(transaction) && !is_over(transaction) ? transaction_status::open
															  : transaction_status::idle;
	}

	static void
	rollback(T &transaction, const deadline &until = {})
	{
		detail::in_time(as_base(transaction).conn(), until, [&] {
			try
			{
				as_base(transaction).abort();
			}
			catch (const pqxx::usage_error &) // it is over
			{
			}
		});
	}

	static bool
	lost(T &transaction) noexcept
	{
		return detail::is_pqxx_lost(as_base(transaction).conn());
	}

	static void
	close(T &transaction) noexcept
	{
		detail::close_socket(as_base(transaction).conn());
	}

	static int
	socket(T &transaction) noexcept
	{
		return as_base(transaction).conn().sock();
	}

	static scope
	default_scope(T &transaction) noexcept
	{
		return is_block(transaction) ? scope::transaction : scope::session;
	}

	static std::string
	host(T &transaction)
	{
		return detail::host_of(as_base(transaction).conn());
	}

	static const void *
	session(T &transaction) noexcept
	{
		return &as_base(transaction).conn();
	}

  private:
	static pqxx::transaction_base &
	as_base(T &transaction) noexcept
	{
		return transaction;
	}

	/// A connection has one transaction object at a time, and refuses another one, until the object
	/// has committed or aborted. Nothing is sent.
	static bool
	is_over(T &transaction) noexcept
	{
		try
		{
			pqxx::nontransaction another(as_base(transaction).conn());

			return true;
		}
		catch (...)
		{
			return false;
		}
	}

	static bool
	is_block(T &transaction) noexcept
	{
		return dynamic_cast<pqxx::nontransaction *>(&as_base(transaction)) == nullptr;
	}
};
} // namespace pglock
