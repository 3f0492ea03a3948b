// drive.hpp: drives the state machines of operations to their end, and waits for each answer.
#pragma once

#include <chrono>
#include <optional>
#include <version>

#if defined(__cpp_lib_jthread)
#include <stop_token>
#endif

#include "../connection.hpp"
#include "../error.hpp"
#include "../options.hpp"
#include "interrupter.hpp"
#include "request.hpp"
#include "session.hpp"
#include "statements.hpp"

namespace pglock::detail
{
template <typename Machine>
void
drive(connection_ref connection, session &session, statements how, Machine &machine)
{
	while (std::optional<request> asked = machine.next())
		try
		{
			machine.succeeded(run(connection, session, how, *asked, machine.until()));
		}
		catch (const error &failure)
		{
			if (!machine.recovers(failure))
				throw;
		}
}

#if defined(__cpp_lib_jthread)
/// The same for what can be cancelled: a request to stop does so. `limit` says by when a request
/// has to be answered.
template <typename Machine, typename Limit>
void
drive_unless_stopped(connection_ref connection, session &session, statements how, Machine &machine,
					 const std::stop_token &stop, std::chrono::milliseconds grace, Limit limit)
{
	auto note_stop = [&] {
		if (stop.stop_requested())
			machine.cancel();
	};

	note_stop();
	while (std::optional<request> asked = machine.next())
		try
		{
			std::optional<interrupter> by;

			if (machine.is_waiting())
				by.emplace(stop, connection.control(), grace);

			reply answer = run(connection, session, how, *asked, limit());

			by.reset();
			note_stop();
			machine.succeeded(answer);
		}
		catch (const error &failure)
		{
			note_stop();
			if (!machine.recovers(failure))
				throw;
		}
}
#endif
} // namespace pglock::detail
