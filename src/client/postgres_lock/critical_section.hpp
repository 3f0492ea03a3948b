// critical_section.hpp: a lock, the statements that need it, and COMMIT: in one round trip, over
// libpq 14 or later.
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "detail/first_word.hpp"
#include "detail/pipeline.hpp"
#include "libpq.hpp"

namespace pglock
{
/// The value of a parameter in PostgreSQL's text format. `std::nullopt` is NULL.
using parameter = std::optional<std::string>;

/// One SQL statement of a critical section, with `$1` and so on for its parameters:
/// `pglock::query{"UPDATE accounts SET balance = 0 WHERE id = $1", {"42"}}`. Text alone converts.
///
/// Throws `std::invalid_argument` for a null pointer, for zero bytes, for COPY, and for commands
/// that begin or end transactions or set savepoints (PREPARE with them): they would release the
/// lock before its time. The server refuses strings with several statements (42601), and what it
/// has to run outside transaction blocks, such as VACUUM (25001).
class query
{
  public:
	query(std::string text, std::vector<parameter> values = {})
		: query(std::move(text), std::move(values), false)
	{
		std::string word = detail::first_word(text_);

		if (std::find(refused.begin(), refused.end(), word) != refused.end())
			throw std::invalid_argument(word + " is not possible in a critical section");
	}

	query(std::string_view text, std::vector<parameter> values = {})
		: query(std::string(text), std::move(values))
	{
	}

	query(const char *text, std::vector<parameter> values = {})
		: query(std::string(not_null(text)), std::move(values))
	{
	}

	/// A statement that has been prepared on the connection, by its name. It must not be one of
	/// those that are refused otherwise: that is an error when it has been run, and so too late.
	[[nodiscard]] static query
	prepared(std::string name, std::vector<parameter> values = {})
	{
		return {std::move(name), std::move(values), true};
	}

	/// For the library itself.
	void
	send(detail::pipeline &pipeline) const
	{
		std::vector<const char *> values;

		values.reserve(values_.size());
		for (const parameter &each : values_)
			values.push_back(each ? each->c_str() : nullptr);
		if (is_prepared_)
			pipeline.send_prepared(text_.c_str(), values);
		else
			pipeline.send(text_.c_str(), values);
	}

  private:
	static constexpr std::array<std::string_view, 10> refused{"ABORT",	 "BEGIN",	 "COMMIT",
															  "COPY",	 "END",		 "PREPARE",
															  "RELEASE", "ROLLBACK", "SAVEPOINT",
															  "START"};

	query(std::string text, std::vector<parameter> values, bool is_prepared)
		: text_(std::move(text)), values_(std::move(values)), is_prepared_(is_prepared)
	{
		check(text_);
		for (const parameter &each : values_)
			if (each)
				check(*each);
	}

	static void
	check(const std::string &text)
	{
		if (text.find('\0') != std::string::npos)
			throw std::invalid_argument("a statement must not contain a zero byte");
	}

	static const char *
	not_null(const char *text)
	{
		if (text == nullptr)
			throw std::invalid_argument("a statement must not be null");
		return text;
	}

	std::string text_;
	std::vector<parameter> values_;
	bool is_prepared_;
};

/// What a statement answered: rows for `PQgetvalue(result.get(), row, column)`, a count for
/// `PQcmdTuples(result.get())`.
using result = detail::result_ptr;

namespace detail
{
/// One critical section: what is checked, sent and read.
class critical_section
{
  public:
	/// Throws if there is anything that forbids it, before anything is sent.
	critical_section(PGconn *connection, const key &key, const options &options)
		: ref_(connection), connection_(*connection), session_(ref_.session()), key_(key),
		  options_(options)
	{
		if (options.scope == scope::session)
			throw std::invalid_argument("a critical section has transaction scope");
		switch (ref_.status())
		{
			case transaction_status::busy:
				throw_busy(key);
			case transaction_status::open:
			case transaction_status::failed:
				throw error("the critical section of lock \"" + key.text() +
								"\" can't be part of a transaction",
							"25001");
			case transaction_status::idle:
				hold::check_conflicts(ref_, *session_, key, options.shared);
		}
	}

	[[nodiscard]] std::vector<result>
	run(std::span<const query> queries)
	{
		prepares_ =
			options_.statements != statements::unprepared && session_->troubles < most_troubles;
		if (prepares_)
			if (auto results = attempt(queries))
				return *std::move(results);
		prepares_ = false;
		return *attempt(queries);
	}

  private:
	/// Nothing: there is trouble with a prepared statement, and all has been rolled back.
	std::optional<std::vector<result>>
	attempt(std::span<const query> queries)
	{
		bool is_simple = !options_.timeout && !options_.shared;
		const statement &enter = is_simple ? enter_statement : enter_in_time_statement;
		std::vector<result> results;
		pipeline pipeline(connection_);

		results.reserve(queries.size());
		send(pipeline, begin_statement);
		send_enter(pipeline, enter);
		for (const query &each : queries)
			each.send(pipeline);
		send(pipeline, commit_statement);
		pipeline.sync();

		if (!receive(pipeline, begin_statement) || !receive(pipeline, enter))
			return {};
		for (std::size_t i = 0; i < queries.size(); i++)
			results.push_back(checked(pipeline.next(), i + 1));
		if (!receive(pipeline, commit_statement, "COMMIT"))
			return {};
		return results;
	}

	void
	send_enter(pipeline &pipeline, const statement &enter) const
	{
		std::string timeout = interval_text(options_.timeout.value_or(milliseconds::zero()));
		const char *values[] = {key_.text().c_str(), options_.timeout ? timeout.c_str() : nullptr,
								options_.shared ? "t" : "f"};

		send(pipeline, enter,
			 parameters(values).first(enter.index == enter_statement.index ? 1 : 3));
	}

	/// A statement of the library.
	void
	send(pipeline &pipeline, const statement &what, parameters values = {}) const
	{
		if (!prepares_)
			return pipeline.send(what.text, values);
		if (!session_->prepared[what.index])
			pipeline.prepare(what.name, what.text);
		pipeline.send_prepared(what.name, values);
	}

	/// The answer to it. False: trouble with its prepared form, which is noted.
	[[nodiscard]] bool
	receive(pipeline &pipeline, const statement &what, std::string_view tag = {})
	{
		try
		{
			if (prepares_ && !session_->prepared[what.index])
			{
				check(pipeline.next());
				session_->prepared.set(what.index);
			}

			result answer = pipeline.next();

			check(answer);
			if (!std::string_view(PQcmdStatus(answer.get())).starts_with(tag))
				throw error(std::string(what.name) + " is another statement", "26000");
			return true;
		}
		catch (const error &failure)
		{
			if (what.index == enter_in_time_statement.index && failure.sqlstate() == "22P02")
				throw_timeout(key_);
			if (!prepares_ || !is_statement_trouble(failure.sqlstate()))
				throw;

			// behind a pooler another program may have prepared it
			bool is_there = failure.sqlstate() == "42P05";

			session_->prepared.set(what.index, is_there);
			session_->troubles += is_there ? 0 : 1;
			return false;
		}
	}

	void
	check(const result &answer, const std::string &added = {}) const
	{
		switch (PQresultStatus(answer.get()))
		{
			case PGRES_COMMAND_OK:
			case PGRES_TUPLES_OK:
			case PGRES_EMPTY_QUERY:
				return;
			case PGRES_COPY_IN:
			case PGRES_COPY_OUT:
			case PGRES_COPY_BOTH:
				throw error("COPY is not possible in a critical section" + added, "0A000");
			default:
				throw_libpq_error(connection_, answer.get(), added);
		}
	}

	/// The answer to a statement, by its number from 1.
	[[nodiscard]] result
	checked(result answer, std::size_t number) const
	{
		std::string added = "\nSTATEMENT:  number " + std::to_string(number);

		check(answer, added);

		std::string_view tag = PQcmdStatus(answer.get());

		if (tag == "COMMIT" || tag == "ROLLBACK" || tag == "PREPARE TRANSACTION")
			throw error("lock \"" + key_.text() + "\" was released by " + std::string(tag) + added,
						"2D000");
		return answer;
	}

	connection_ref ref_;
	PGconn &connection_;
	std::shared_ptr<session> session_;
	const key &key_;
	const options &options_;
	bool prepares_ = false;
};
} // namespace detail

/// Runs the statements in a transaction that holds the lock, and commits. All of it is one round
/// trip: BEGIN, the wait for the lock, the statements and COMMIT go out together, and the server
/// does not begin with a statement before the lock is held, nor releases it before they are
/// committed. The isolation level is READ COMMITTED, so the statements see what the last holder
/// wrote. Returns what each statement answered.
///
/// If the lock is refused, or a statement or COMMIT fails, all is rolled back, which takes one more
/// round trip, and the connection is as it was. Throws `timeout_error` if the options have a
/// timeout and it passes, `deadlock_error`, `connection_lost` (then it is not known if it was
/// committed), or `error` with the number of the statement at the end of its message: with 25001
/// in a transaction block, and without SQLSTATE if the connection is busy or in pipeline mode.
/// Throws `std::invalid_argument` for options with session scope, and `std::system_error`
/// (`resource_deadlock_would_occur`) if an object holds the lock on this connection.
///
/// Of the options `rollback_on_error` makes no difference, and `statements` is for the statement
/// that takes the lock. All answers are kept in memory.
inline std::vector<result>
critical_section(PGconn *connection, const key &key, const options &options,
				 std::span<const query> queries)
{
	return detail::critical_section(connection, key, options).run(queries);
}

/// The same: `pglock::critical_section(connection, "key", {.timeout = 5s}, "UPDATE ...", "...")`.
template <std::convertible_to<query>... Queries>
requires(sizeof...(Queries) >
		 0) std::vector<result> critical_section(PGconn *connection, const key &key,
												 const options &options, Queries &&...queries)
{
	std::array<query, sizeof...(Queries)> all{std::forward<Queries>(queries)...};

	return critical_section(connection, key, options, std::span<const query>(all));
}

/// The same, waiting for ever: `pglock::critical_section(connection, "key", "UPDATE ...", "...")`.
template <std::convertible_to<query>... Queries>
requires(sizeof...(Queries) > 0) std::vector<result> critical_section(PGconn *connection,
																	  const key &key,
																	  Queries &&...queries)
{
	return critical_section(connection, key, options(), std::forward<Queries>(queries)...);
}
} // namespace pglock
