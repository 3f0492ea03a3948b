// libpq.hpp: locks over libpq. `pglock::guard guard(connection, "key");` for a `PGconn
// *connection`.
#pragma once

#include <array>
#include <libpq-events.h>
#include <libpq-fe.h>
#include <memory>
#include <new>
#include <string>

#include "connection.hpp"
#include "detail/answer.hpp"
#include "detail/hang_up.hpp"
#include "detail/socket.hpp"
#include "error.hpp"
#include "lock.hpp"

namespace pglock
{
namespace detail
{
inline int libpq_event(PGEventId id, void *info, void *);

/// By its address libpq knows what is ours. One in the program, though its shared objects hide
/// their symbols: so it is a variable, which they share even if they are loaded apart.
[[gnu::visibility("default")]] inline PGEventProc session_event = libpq_event;

[[nodiscard]] inline session_memory *
known_memory(const PGconn *connection) noexcept
{
	return static_cast<session_memory *>(PQinstanceData(connection, session_event));
}

/// libpq tells when a connection is reset or closed, and of each result.
inline int
libpq_event(PGEventId id, void *info, void *)
{
	if (id == PGEVT_CONNRESET)
	{
		if (auto memory = known_memory(static_cast<PGEventConnReset *>(info)->conn))
			memory->renew();
	}
	else if (id == PGEVT_CONNDESTROY)
		delete known_memory(static_cast<PGEventConnDestroy *>(info)->conn);
	else if (id == PGEVT_RESULTCREATE)
	{
		auto created = static_cast<PGEventResultCreate *>(info);

		if (auto memory = known_memory(created->conn))
			memory->session()->command_ended(PQresultStatus(created->result) != PGRES_FATAL_ERROR,
											 PQcmdStatus(created->result));
	}
	return 1;
}

/// The server's message with what it adds to it, however verbose libpq has been told to be.
[[nodiscard]] inline std::string
message_of(const PGresult *result)
{
	struct part
	{
		int field;
		const char *title;
	};
	const char *primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	std::string message = primary != nullptr ? primary : PQresultErrorMessage(result);

	for (auto [field, title] :
		 {part{PG_DIAG_MESSAGE_DETAIL, "\nDETAIL:  "}, part{PG_DIAG_MESSAGE_HINT, "\nHINT:  "},
		  part{PG_DIAG_CONTEXT, "\nCONTEXT:  "}})
		if (const char *text = PQresultErrorField(result, field))
			message.append(title).append(text);
	return message;
}

/// `added` is for the end of the server's message.
[[noreturn]] inline void
throw_libpq_error(const PGconn &connection, const PGresult *result, const std::string &added = {})
{
	const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);

	if (PQstatus(&connection) == CONNECTION_BAD)
		throw connection_lost(PQerrorMessage(&connection), sqlstate != nullptr ? sqlstate : "");
	if (sqlstate == nullptr)
		throw error(result != nullptr ? PQresultErrorMessage(result) : PQerrorMessage(&connection));
	throw_error(sqlstate, message_of(result) + added);
}

/// The answer to a command. One that libpq could not keep, as it had no memory, leaves us not
/// knowing what the session holds, so that costs the connection.
[[nodiscard]] inline reply
reply_of(PGconn &connection, const PGresult *result)
{
	switch (PQresultStatus(result))
	{
		case PGRES_COMMAND_OK:
			return {};
		case PGRES_TUPLES_OK:
			if (PQntuples(result) < 1 || PQnfields(result) < 1 || PQgetisnull(result, 0, 0))
				return {};
			return PQgetvalue(result, 0, 0);
		case PGRES_FATAL_ERROR:
			if (result != nullptr && PQstatus(&connection) == CONNECTION_OK &&
				PQresultErrorField(result, PG_DIAG_SQLSTATE) == nullptr)
			{
				shut_down(connection);
				throw connection_lost(PQresultErrorMessage(result));
			}
			[[fallthrough]];
		default:
			throw_libpq_error(connection, result);
	}
}

[[nodiscard]] inline reply
reply_of(PGconn &connection, result_ptr result)
{
	return reply_of(connection, result.get());
}
} // namespace detail

/// Locks over libpq. After `PQreset` and `PQfinish` the locks of the connection know that they hold
/// nothing. A connection in pipeline mode is busy.
template <> struct connection_traits<PGconn>
{
	static reply
	execute(PGconn &connection, const char *text, parameters values, const deadline &until = {})
	{
		auto count = static_cast<int>(values.size());
		auto run = [&](auto function) {
			return function(&connection, text, count, nullptr, values.data(), nullptr, nullptr, 0);
		};

		if (!until)
			return detail::reply_of(connection, detail::result_ptr(run(PQexecParams)));
		return detail::reply_of(connection, detail::converse(connection, until, [&] {
									return run(PQsendQueryParams);
								}));
	}

	static void
	prepare(PGconn &connection, const char *name, const char *text, const deadline &until = {})
	{
		auto run = [&](auto function) { return function(&connection, name, text, 0, nullptr); };

		if (!until)
			(void)detail::reply_of(connection, detail::result_ptr(run(PQprepare)));
		else
			(void)detail::reply_of(connection, detail::converse(connection, until, [&] {
									   return run(PQsendPrepare);
								   }));
	}

	static reply
	execute_prepared(PGconn &connection, const char *name, parameters values,
					 const deadline &until = {})
	{
		auto count = static_cast<int>(values.size());
		auto run = [&](auto function) {
			return function(&connection, name, count, values.data(), nullptr, nullptr, 0);
		};

		if (!until)
			return detail::reply_of(connection, detail::result_ptr(run(PQexecPrepared)));
		return detail::reply_of(connection, detail::converse(connection, until, [&] {
									return run(PQsendQueryPrepared);
								}));
	}

	static transaction_status
	status(PGconn &connection) noexcept
	{
#ifdef LIBPQ_HAS_PIPELINING
		if (PQpipelineStatus(&connection) != PQ_PIPELINE_OFF && !lost(connection))
			return transaction_status::busy;
#endif
		switch (PQtransactionStatus(&connection))
		{
			case PQTRANS_ACTIVE:
				return transaction_status::busy;
			case PQTRANS_INTRANS:
				return transaction_status::open;
			case PQTRANS_INERROR:
				return transaction_status::failed;
			default: // a broken connection says so when it is used
				return transaction_status::idle;
		}
	}

	static void
	rollback(PGconn &connection, const deadline &until = {})
	{
		(void)execute(connection, "ROLLBACK", {}, until);
	}

	static bool
	lost(PGconn &connection) noexcept
	{
		return PQstatus(&connection) != CONNECTION_OK ||
			   detail::is_socket_closed(PQsocket(&connection));
	}

	static void
	close(PGconn &connection) noexcept
	{
		detail::shut_down(connection);
	}

#ifdef LIBPQ_HAS_PIPELINING
	/// Flush: only what is sent next in a pipeline depends on it.
	static void
	keep_alive(PGconn &connection) noexcept
	{
		if (status(connection) == transaction_status::idle && PQsendFlushRequest(&connection) == 1)
			PQflush(&connection);
	}
#endif

	static command_control
	control(PGconn &connection)
	{
		std::shared_ptr<PGcancel> request(PQgetCancel(&connection), PQfreeCancel);

		if (!request && PQsocket(&connection) < 0)
			throw connection_lost(PQerrorMessage(&connection));
		if (!request)
			throw std::bad_alloc();
		return {[request] {
					std::array<char, 256> message;

					PQcancel(request.get(), message.data(), static_cast<int>(message.size()));
				},
				detail::hang_up_of(PQsocket(&connection))};
	}

	static int
	socket(PGconn &connection) noexcept
	{
		return PQsocket(&connection);
	}

	static std::string
	host(PGconn &connection)
	{
		return std::string(PQhost(&connection)) + ':' + PQport(&connection);
	}

	static session_memory &
	memory(PGconn &connection)
	{
		if (auto known = detail::known_memory(&connection))
			return *known;

		auto made = std::make_unique<session_memory>();

		PQregisterEventProc(&connection, detail::session_event, "postgres_lock", nullptr);
		if (PQsetInstanceData(&connection, detail::session_event, made.get()) == 0)
			throw std::bad_alloc();
		return *made.release();
	}
};
} // namespace pglock
