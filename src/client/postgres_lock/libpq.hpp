// libpq.hpp: locks over libpq. `pglock::guard guard(connection, "key");` for a `PGconn
// *connection`.
#pragma once

#include <libpq-events.h>
#include <libpq-fe.h>
#include <memory>
#include <new>
#include <string>

#include "connection.hpp"
#include "detail/socket.hpp"
#include "error.hpp"
#include "lock.hpp"

namespace pglock
{
namespace detail
{
struct result_deleter
{
	void
	operator()(PGresult *result) const noexcept
	{
		PQclear(result);
	}
};

using result_ptr = std::unique_ptr<PGresult, result_deleter>;

/// libpq tells when a connection is reset or closed.
inline int
libpq_event(PGEventId id, void *info, void *)
{
	if (id == PGEVT_CONNRESET)
	{
		auto connection = static_cast<PGEventConnReset *>(info)->conn;

		if (auto memory = static_cast<session_memory *>(PQinstanceData(connection, libpq_event)))
			memory->renew();
	}
	else if (id == PGEVT_CONNDESTROY)
	{
		auto connection = static_cast<PGEventConnDestroy *>(info)->conn;

		delete static_cast<session_memory *>(PQinstanceData(connection, libpq_event));
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
	if (result == nullptr || sqlstate == nullptr)
		throw error(PQerrorMessage(&connection));
	throw_error(sqlstate, message_of(result) + added);
}

[[nodiscard]] inline reply
reply_of(const PGconn &connection, const PGresult *result)
{
	switch (PQresultStatus(result))
	{
		case PGRES_COMMAND_OK:
			return {};
		case PGRES_TUPLES_OK:
			if (PQntuples(result) < 1 || PQnfields(result) < 1 || PQgetisnull(result, 0, 0))
				return {};
			return PQgetvalue(result, 0, 0);
		default:
			throw_libpq_error(connection, result);
	}
}

[[nodiscard]] inline reply
reply_of(const PGconn &connection, result_ptr result)
{
	return reply_of(connection, result.get());
}
} // namespace detail

/// Locks over libpq. After `PQreset` and `PQfinish` the locks of the connection know that they hold
/// nothing. A connection in pipeline mode is busy.
template <> struct connection_traits<PGconn>
{
	static reply
	execute(PGconn &connection, const char *text, parameters values)
	{
		return detail::reply_of(connection,
								detail::result_ptr(
									PQexecParams(&connection, text, static_cast<int>(values.size()),
												 nullptr, values.data(), nullptr, nullptr, 0)));
	}

	static void
	prepare(PGconn &connection, const char *name, const char *text)
	{
		(void)detail::reply_of(connection,
							   detail::result_ptr(PQprepare(&connection, name, text, 0, nullptr)));
	}

	static reply
	execute_prepared(PGconn &connection, const char *name, parameters values)
	{
		return detail::reply_of(connection, detail::result_ptr(PQexecPrepared(
												&connection, name, static_cast<int>(values.size()),
												values.data(), nullptr, nullptr, 0)));
	}

	static transaction_status
	status(PGconn &connection) noexcept
	{
#ifdef LIBPQ_HAS_PIPELINING
		if (PQpipelineStatus(&connection) != PQ_PIPELINE_OFF)
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
	rollback(PGconn &connection)
	{
		(void)execute(connection, "ROLLBACK", {});
	}

	static bool
	lost(PGconn &connection) noexcept
	{
		return PQstatus(&connection) != CONNECTION_OK ||
			   detail::is_socket_closed(PQsocket(&connection));
	}

	static session_memory &
	memory(PGconn &connection)
	{
		void *known = PQinstanceData(&connection, detail::libpq_event);

		if (known != nullptr)
			return *static_cast<session_memory *>(known);

		auto made = std::make_unique<session_memory>();

		PQregisterEventProc(&connection, detail::libpq_event, "postgres_lock", nullptr);
		if (PQsetInstanceData(&connection, detail::libpq_event, made.get()) == 0)
			throw std::bad_alloc();
		return *made.release();
	}
};
} // namespace pglock
