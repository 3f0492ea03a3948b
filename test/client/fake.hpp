// fake.hpp: a connection without a server, made known to the library by its customization point.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <postgres_lock/connection.hpp>

namespace fake
{
/// Notes what it is asked, and answers as told. Not told, it grants everything.
struct connection
{
	/// Each command: its text, and then its parameters, with a '|' before each.
	std::vector<std::string> log;

	/// Answers to come, one a command; they may throw.
	std::deque<std::function<pglock::reply()>> answers;

	pglock::transaction_status status = pglock::transaction_status::idle;
	bool lost = false;
	bool closed = false;
	pglock::session_memory memory;

	void
	answer(std::function<pglock::reply()> next)
	{
		answers.push_back(std::move(next));
	}

	void
	answer(const char *next)
	{
		answer([next] { return pglock::reply(next); });
	}

	void
	fail(const char *sqlstate, const char *message = "as told")
	{
		answer([=]() -> pglock::reply { pglock::throw_error(sqlstate, message); });
	}

	pglock::reply
	run(std::string text, pglock::parameters values = {})
	{
		for (const char *value : values)
			text.append("|").append(value != nullptr ? value : "NULL");
		log.push_back(std::move(text));
		if (answers.empty())
			return "t";

		auto next = std::move(answers.front());

		answers.pop_front();
		return next();
	}

	/// What has been asked since the last call.
	std::vector<std::string>
	asked()
	{
		return std::exchange(log, {});
	}
};

/// The same, and it can prepare statements.
struct preparing_connection : connection
{
};

/// The least that an interface has to have.
struct plain_traits
{
	static pglock::reply
	execute(connection &to, const char *text, pglock::parameters values)
	{
		return to.run(text, values);
	}

	static pglock::transaction_status
	status(connection &of) noexcept
	{
		return of.status;
	}

	static void
	rollback(connection &of)
	{
		(void)of.run("ROLLBACK");
		of.status = pglock::transaction_status::idle;
	}
};
} // namespace fake

template <> struct pglock::connection_traits<fake::connection> : fake::plain_traits
{
	static bool
	lost(fake::connection &asked) noexcept
	{
		return asked.lost;
	}

	static void
	close(fake::connection &of) noexcept
	{
		of.closed = of.lost = true;
	}

	static session_memory &
	memory(fake::connection &of)
	{
		return of.memory;
	}
};

template <>
struct pglock::connection_traits<fake::preparing_connection>
	: pglock::connection_traits<fake::connection>
{
	static void
	prepare(fake::connection &to, const char *name, const char *text)
	{
		(void)to.run(std::string("PREPARE ") + name + " AS " + text);
	}

	static reply
	execute_prepared(fake::connection &to, const char *name, parameters values)
	{
		return to.run(std::string("EXECUTE ") + name, values);
	}
};

namespace fake
{
/// Notes how long each command may take, in seconds, or -1.
struct timed_traits : pglock::connection_traits<connection>
{
	static inline std::vector<long> limits;

	static pglock::reply
	execute(connection &to, const char *text, pglock::parameters values,
			const pglock::deadline &until = {})
	{
		auto left = until.value_or(std::chrono::steady_clock::time_point()) -
					std::chrono::steady_clock::now();

		limits.push_back(until ? std::chrono::round<std::chrono::seconds>(left).count() : -1);
		return to.run(text, values);
	}

	static void
	rollback(connection &of, const pglock::deadline &until = {})
	{
		(void)execute(of, "ROLLBACK", {}, until);
	}
};

constexpr unsigned never = ~0u;

/// Drives a machine to its end. `cancel_at`: a cancellation arrives while the answer to that
/// request, counted from 0, is on its way.
template <typename Machine>
void
drive(connection &over, Machine &machine, unsigned cancel_at = never)
{
	pglock::connection_ref to = over;

	for (unsigned step = 0; auto asked = machine.next(); step++)
	{
		if (step == cancel_at)
			machine.cancel();
		try
		{
			machine.succeeded(to.execute(asked->what().text, asked->values()));
		}
		catch (const pglock::error &failure)
		{
			if (!machine.recovers(failure))
				throw;
		}
	}
}
} // namespace fake
