// session_link.hpp: a connection, and its session.
#pragma once

#include <memory>
#include <utility>

#include "../connection.hpp"
#include "../key.hpp"
#include "refusal.hpp"
#include "session.hpp"

namespace pglock::detail
{
/// A connection with the session that it had when this was made. Once that has ended, the
/// connection is not touched.
struct session_link
{
	explicit session_link(connection_ref to)
		: connection(std::move(to)), session(connection.session())
	{
	}

	/// For what does not end with its session: goes on to the one that the connection has now.
	void
	follow() noexcept
	{
		while (session->next)
			session = session->next;
	}

	/// Throws if no statement can be sent. The key is for the message.
	transaction_status
	ready(const key &of) const
	{
		check_session(*session, of);

		transaction_status status = connection.status();

		if (status == transaction_status::busy)
			throw_busy(of);
		return status;
	}

	connection_ref connection;
	std::shared_ptr<detail::session> session;
};
} // namespace pglock::detail
