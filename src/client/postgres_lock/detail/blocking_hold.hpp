// blocking_hold.hpp: a hold whose operations wait for each answer of the server.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "../connection.hpp"
#include "../error.hpp"
#include "../key.hpp"
#include "../options.hpp"
#include "drive.hpp"
#include "hold.hpp"
#include "protocol.hpp"
#include "refusal.hpp"
#include "request.hpp"
#include "session.hpp"
#include "session_watch.hpp"
#include "statements.hpp"

namespace pglock::detail
{
/// The levels held. The server is asked where our books may be behind: by that way to the session,
/// as the hold's own may be a transaction object that has ended.
[[nodiscard]] inline unsigned
checked_depth(hold &of, connection_ref asked, const deadline &until)
{
	request held = of.held_request();

	if (of.may_be_over() &&
		(of.depth() == 0 || asked.execute(held.what().text, held.values(), until) != "t"))
		of.forget();
	return of.depth();
}

/// Throws if an object on the session stands in the way of this one. Asks as well.
inline void
check_conflicts(connection_ref connection, const session &session, const key &wanted, bool shared,
				const deadline &until, const hold *self = nullptr)
{
	while (hold *other = hold::conflict(session, wanted, shared, self))
		if (checked_depth(*other, connection, until) > 0)
			throw_would_deadlock(wanted);
}

/// At its end it releases what it holds.
class blocking_hold : public hold
{
  public:
	blocking_hold(connection_ref connection, std::vector<key> keys, const options &options,
				  slot_count slots = {})
		: hold(connection, std::move(keys), options, slots), grace_(options.grace),
		  is_in_time_(options.timeout.has_value())
#if defined(__cpp_lib_jthread)
		  ,
		  stop_(options.stop)
#endif
	{
#if defined(__cpp_lib_jthread)
		if (stop_.stop_possible() && !connection.has_control())
			throw std::invalid_argument("a wait on this connection can't be stopped");
#endif
	}

	~blocking_hold()
	{
		end(false);
	}

	/// The wait that comes next, which says how long the server may take to answer.
	void
	expect(const wait_time &time) noexcept
	{
		is_in_time_ = time.has_value();
	}

	/// Takes one level more. False: the time passed. If it throws, nothing was taken.
	[[nodiscard]] bool
	take(const wait_time &time)
	{
#if defined(__cpp_lib_jthread)
		if (stop_.stop_possible() && !is_no_wait(time))
			return take_unless_stopped(time);
#endif

		transaction_status status = ready_to_take();

		expect(time);
		settle();
		(void)checked_depth();
		if (!is_slot())
			for (const key &each : keys())
				check_conflicts(connection(), *session(), each, shared(), answer_limit(), this);
		enter();

		bool taken = false;

		try
		{
			taken = ask(take_request(time, status), answer_limit(time));
		}
		catch (...)
		{
			taken_back();
			throw;
		}
		if (taken)
			granted();
		else
			taken_back();
		return taken;
	}

	/// Gives one level back. False: there was none, or its transaction keeps it.
	bool
	give_back()
	{
		if (!is_to_be_released())
			return false;
		check_not_busy();
		try
		{
			released(run(release_request(), answer_limit()));
		}
		catch (const connection_lost &)
		{
			lose();
			throw;
		}
		try
		{
			settle();
		}
		catch (const std::exception &)
		{
			// it is owed still, and the handler has been told
		}
		return true;
	}

	/// Rolls back what is open if that is wanted, and gives all levels back. True: there were some.
	bool
	handle_error()
	{
		bool released = false;

		if (rolls_back())
			connection().rollback(answer_limit());
		while (levels() > 0)
			released = give_back() || released;
		return released;
	}

	/// The end of possession where nothing can be thrown. A transaction that has failed is rolled
	/// back, and after an error that ended a guard so is an open one. What can't be released now is
	/// owed, and what the server refuses to release costs the connection. In another process it is
	/// only forgotten.
	void
	end(bool by_error) noexcept
	{
		end_above(0, by_error);
	}

	/// The same of one level.
	void
	end_level() noexcept
	{
		if (levels() > 0)
			end_above(levels() - 1, false);
	}

	/// The levels held, but the server is asked where our books may be behind.
	[[nodiscard]] unsigned
	checked_depth()
	{
		return detail::checked_depth(*this, connection(), answer_limit());
	}

	/// Asks the server for a number that it knows of a key.
	[[nodiscard]] std::int64_t
	number(const statement &what, const key &of)
	{
		(void)ready();
		settle();
		return number_of(run({what, {of.text().c_str()}}, answer_limit()));
	}

#if defined(__cpp_lib_jthread)
	/// Of which stop is requested when the session ends; from the first call on somebody watches,
	/// but not in a child process.
	[[nodiscard]] std::stop_token
	stop_token()
	{
		if (!session()->is_ours())
			return stopped_token();
		if (!watch_)
		{
			if (lost())
				return stopped_token();
			if (!connection().has_socket())
				throw std::logic_error("the session of this connection can't be watched");
			watch_ = std::make_unique<session_watch>(session(), connection().socket());
		}
		return watch_->stop_token();
	}
#endif

  private:
#if defined(__cpp_lib_jthread)
	[[nodiscard]] static std::stop_token
	stopped_token()
	{
		std::stop_source stopped;

		stopped.request_stop();
		return stopped.get_token();
	}

	/// The same, but a request to stop ends it.
	[[nodiscard]] bool
	take_unless_stopped(const wait_time &time)
	{
		acquisition wanted(*this, time);

		expect(time);
		drive_unless_stopped(connection(), *session(), statements(), wanted, stop_, grace_,
							 [&] { return answer_limit(time); });
		if (wanted.result() == acquisition::outcome::cancelled)
			throw stopped_error(description() + " is not waited for any more: stop was requested");
		return wanted.result() == acquisition::outcome::taken;
	}
#endif

	void
	end_above(unsigned kept, bool by_error) noexcept
	{
		if (levels() > kept && session()->is_ours())
			try
			{
				if (rolls_back_failed() || (by_error && rolls_back()))
					connection().rollback(answer_limit());
				while (levels() > kept)
					give_back();
			}
			catch (const std::exception &failure)
			{
				// nothing is left of them if they have turned out to be lost
				release_failed(failure, levels() - std::min(levels(), kept));
			}
		forget(kept);
	}

	/// By when the server has to answer what it can answer after that wait.
	[[nodiscard]] deadline
	answer_limit(const wait_time &time) const
	{
		if (!time)
			return {};
		return detail::answer_limit(*time, grace_);
	}

	/// The same for what needs no wait.
	[[nodiscard]] deadline
	answer_limit() const
	{
		return answer_limit(is_in_time_ ? wait_time(milliseconds::zero()) : wait_time());
	}

	void
	settle()
	{
		detail::settle(connection(), *session(), statements(), answer_limit());
	}

	/// Tells of a failure, after which the session still has these levels unless it is lost. If
	/// there is no memory to remember them by, they are held as long as it lives.
	void
	release_failed(const std::exception &failure, unsigned levels) noexcept
	{
		report_release_failure(failure);
		if (levels == 0 || ends_with_transaction() ||
			dynamic_cast<const connection_lost *>(&failure) != nullptr)
			return;
		if (is_refusal(failure) && connection().close())
			return;
		try
		{
			for (; levels > 0; levels--)
				for (const key &each : keys())
					session()->owed.push_back(owed(each));
		}
		catch (const std::bad_alloc &)
		{
		}
	}

	/// Would the server say so again? Not after a cancel, nor when what stands in the way is the
	/// failed transaction or the prepared statement, nor if it was not asked.
	[[nodiscard]] static bool
	is_refusal(const std::exception &failure) noexcept
	{
		auto said = dynamic_cast<const error *>(&failure);

		return said != nullptr && !said->sqlstate().empty() && said->sqlstate() != "57014" &&
			   said->sqlstate() != "25P02" && !is_statement_trouble(said->sqlstate());
	}

	/// Asks for a level. False: the time passed.
	[[nodiscard]] bool
	ask(const request &asked, const deadline &until)
	{
		try
		{
			return is_granted(asked, run(asked, until));
		}
		catch (const error &failure)
		{
			if (!is_own_timeout(asked, failure))
				throw;
			return false;
		}
	}

	[[nodiscard]] reply
	run(const request &asked, const deadline &until)
	{
		return detail::run(connection(), *session(), statements(), asked, until);
	}

	time_limit grace_;
	/// Was a time given to the last wait?
	bool is_in_time_;
#if defined(__cpp_lib_jthread)
	std::stop_token stop_;
	std::unique_ptr<session_watch> watch_;
#endif
};
} // namespace pglock::detail
