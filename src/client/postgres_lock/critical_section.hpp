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
/// Does the server say that the command has failed, and the connection has not? A proxy that has
/// lost its server does not know what became of the command.
[[nodiscard]] inline bool
is_server_error(const PGresult *answer) noexcept
{
	const char *severity = PQresultErrorField(answer, PG_DIAG_SEVERITY_NONLOCALIZED);

	return severity != nullptr && std::string_view(severity) == "ERROR";
}

[[nodiscard]] inline bool
is_success(const PGresult *answer) noexcept
{
	ExecStatusType status = PQresultStatus(answer);

	return status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK || status == PGRES_EMPTY_QUERY;
}

[[nodiscard]] inline std::string_view
sqlstate_of(const PGresult *answer) noexcept
{
	const char *sqlstate = PQresultErrorField(answer, PG_DIAG_SQLSTATE);

	return sqlstate != nullptr ? sqlstate : std::string_view();
}

[[nodiscard]] inline bool
ends_transaction(std::string_view tag) noexcept
{
	return tag == "COMMIT" || tag == "ROLLBACK" || tag == "PREPARE TRANSACTION";
}

[[nodiscard]] inline std::string_view
tag_of(const PGresult *answer) noexcept
{
	const char *tag = PQcmdStatus(const_cast<PGresult *>(answer));

	return tag != nullptr ? tag : std::string_view();
}

/// One critical section: what is checked, sent and read.
///
/// Once COMMIT is on its way, only its answer tells what became of it. So all answers are read
/// before any of them is judged, and success allocates nothing after that point.
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
		check_session(*session_, key);
		if (ref_.lost())
			throw connection_lost("the connection of lock \"" + key.text() + "\" is lost");
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
				settle(ref_, *session_, options.statements, limit());
				hold::check_conflicts(ref_, *session_, key, options.shared, limit());
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
	/// For the end of a message.
	static constexpr const char *closed = "\nThe connection has been closed.";

	/// What became of the transaction.
	enum class fate : unsigned char { rolled_back, committed, unknown };

	/// The first answer that is not what it should be. It may be null.
	struct fault
	{
		result answer;
		/// of the library, or null
		const statement *what;
		/// of the user's, from 1, or 0
		std::size_t number;
	};

	/// By when the server has to answer what takes no time, after that wait for the lock.
	[[nodiscard]] deadline
	limit(milliseconds wait = milliseconds::zero()) const
	{
		if (!options_.timeout)
			return {};
		return std::chrono::steady_clock::now() + wait + milliseconds(options_.grace);
	}

	/// Nothing: there is trouble with a prepared statement, and all has been rolled back.
	std::optional<std::vector<result>>
	attempt(std::span<const query> queries)
	{
		bool is_simple = !options_.timeout && !options_.shared;
		const statement &enter = is_simple ? enter_statement : enter_in_time_statement;
		std::vector<result> results;
		pipeline pipeline(connection_, limit(options_.timeout.value_or(milliseconds::zero())));

		results.reserve(queries.size());
		fault_.reset();
		send_work(pipeline, enter, queries);
		send_commit(pipeline);

		receive(pipeline, begin_statement);
		receive(pipeline, enter);
		pipeline.limit({});
		for (std::size_t i = 1; i <= queries.size(); i++)
			results.push_back(receive(pipeline, i));

		result commit = answer_to(pipeline, commit_statement);

		pipeline.limit(limit());

		bool is_well = pipeline.finish();
		fate became = fate_of(commit.get(), is_well);

		if (became == fate::committed && !fault_)
			return results;
		note(std::move(commit), &commit_statement, 0);
		results.clear(); // gives back memory, which what follows needs
		if (became == fate::rolled_back && is_well && is_trouble())
			return {};
		if (became == fate::unknown)
			shut_down(connection_);
		fail(became, became == fate::unknown || !is_well, pipeline.is_late());
	}

	/// If libpq fails here, nothing is done, since COMMIT is not sent.
	void
	send_work(pipeline &pipeline, const statement &enter, std::span<const query> queries) const
	{
		try
		{
			send(pipeline, begin_statement);
			send_enter(pipeline, enter);
			// the server's time for the lock is known, that for the statements is not
			if (options_.timeout)
				pipeline.flush();
			for (const query &each : queries)
				each.send(pipeline);
		}
		catch (const error &failure)
		{
			if (pipeline.finish())
				throw;
			throw connection_lost(failure.what() + std::string(closed), failure.sqlstate());
		}
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

	/// If libpq fails here, the server may have COMMIT nevertheless.
	void
	send_commit(pipeline &pipeline)
	{
		try
		{
			send(pipeline, commit_statement);
			pipeline.sync();
		}
		catch (const error &failure)
		{
			shut_down(connection_);
			throw_unknown(failure.sqlstate(), failure.what());
		}
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

	/// The answer to it. If it could not be prepared, that.
	[[nodiscard]] result
	answer_to(pipeline &pipeline, const statement &what)
	{
		result prepared;

		if (prepares_ && !session_->prepared[what.index])
		{
			prepared = pipeline.next();
			if (is_success(prepared.get()))
				session_->prepared.set(what.index);
		}

		result executed = pipeline.next();

		return prepared && !is_success(prepared.get()) ? std::move(prepared) : std::move(executed);
	}

	void
	note(result answer, const statement *what, std::size_t number)
	{
		if (!fault_)
			fault_ = fault{std::move(answer), what, number};
	}

	void
	receive(pipeline &pipeline, const statement &what)
	{
		result answer = answer_to(pipeline, what);

		if (!is_success(answer.get()))
			note(std::move(answer), &what, 0);
	}

	/// The answer to a statement of the user's, by its number from 1.
	[[nodiscard]] result
	receive(pipeline &pipeline, std::size_t number)
	{
		result answer = pipeline.next();

		if (is_success(answer.get()) && !ends_transaction(tag_of(answer.get())))
			return answer;
		note(std::move(answer), nullptr, number);
		return {};
	}

	/// libpq has no answer to what follows an error: it takes it that the server skips that. But
	/// what an error that ends the connection follows is not known.
	[[nodiscard]] fate
	fate_of(const PGresult *commit, bool is_well) const noexcept
	{
		if (is_success(commit)) // or it is another statement of that name
			return tag_of(commit) == "COMMIT" ? fate::committed : fate::rolled_back;
		if (is_server_error(commit) ||
			(is_well && PQresultStatus(commit) == PGRES_PIPELINE_ABORTED))
			return fate::rolled_back;
		if (fault_ && (is_server_error(fault_->answer.get()) ||
					   PQresultStatus(fault_->answer.get()) == PGRES_COPY_IN))
			return fate::rolled_back;
		return fate::unknown;
	}

	/// Is it only trouble with a prepared statement of ours? Notes it.
	[[nodiscard]] bool
	is_trouble() const noexcept
	{
		const PGresult *answer = fault_->answer.get();
		std::string_view sqlstate = sqlstate_of(answer);

		if (!prepares_ || fault_->what == nullptr ||
			(!is_success(answer) && !is_statement_trouble(sqlstate)))
			return false;

		// behind a pooler another program may have prepared it
		bool is_there = sqlstate == "42P05";

		session_->prepared.set(fault_->what->index, is_there);
		session_->troubles += is_there ? 0 : 1;
		return true;
	}

	[[noreturn]] void
	fail(fate became, bool is_closed, bool is_late) const
	{
		const PGresult *answer = fault_->answer.get();
		std::string_view sqlstate = sqlstate_of(answer);
		std::string message = is_late			  ? no_answer_text
							  : answer != nullptr ? message_of(answer)
												  : PQerrorMessage(&connection_);

		switch (PQresultStatus(answer))
		{
			case PGRES_COPY_IN:
			case PGRES_COPY_OUT:
			case PGRES_COPY_BOTH:
				sqlstate = "0A000";
				message = "COPY is not possible in a critical section";
				break;
			case PGRES_COMMAND_OK:
				sqlstate = "2D000";
				message = "lock \"" + key_.text() + "\" was released by ";
				message += tag_of(answer);
				break;
			default:
				break;
		}
		if (fault_->number > 0)
			message += "\nSTATEMENT:  number " + std::to_string(fault_->number);
		if (is_closed)
			message += closed;
		if (became == fate::unknown)
			throw_unknown(sqlstate, message);
		if (became == fate::committed && sqlstate != "2D000")
			throw result_lost("the critical section of lock \"" + key_.text() +
								  "\" is committed, but an answer is lost: " + message,
							  sqlstate);
		if (is_own_timeout(sqlstate, message) && fault_->what != nullptr)
			throw timeout_error(message, sqlstate);
		throw_error(sqlstate, message);
	}

	[[noreturn]] void
	throw_unknown(std::string_view sqlstate, const std::string &message) const
	{
		throw outcome_unknown("it is not known whether the critical section of lock \"" +
								  key_.text() + "\" was committed: " + message,
							  sqlstate);
	}

	connection_ref ref_;
	PGconn &connection_;
	std::shared_ptr<session> session_;
	const key &key_;
	const options &options_;
	bool prepares_ = false;
	std::optional<fault> fault_;
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
/// timeout and it passes, `deadlock_error`, `connection_lost` if COMMIT was not sent, or `error`
/// with the number of the statement at the end of its message: with 25001 in a transaction block,
/// and without SQLSTATE if the connection is busy or in pipeline mode. After these nothing has been
/// done.
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
/// Of the options `rollback_on_error` makes no difference, and `statements` is for BEGIN, for the
/// statement that takes the lock, and for COMMIT. If one of these turns out not to be prepared any
/// more, all is rolled back and sent once more without; after three times the connection does
/// without at once. DISCARD ALL and DEALLOCATE ALL on the connection itself cost nothing: the
/// library hears of them. All answers are kept in memory.
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
