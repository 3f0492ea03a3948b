// critical_section.hpp: one critical section, from what is checked to what became of it.
#pragma once

#include <cstddef>
#include <libpq-fe.h>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../connection.hpp"
#include "../error.hpp"
#include "../key.hpp"
#include "../libpq.hpp"
#include "../options.hpp"
#include "../query.hpp"
#include "answer.hpp"
#include "entrance.hpp"
#include "interrupter.hpp"
#include "pipeline.hpp"
#include "refusal.hpp"
#include "request.hpp"
#include "session.hpp"
#include "statements.hpp"

namespace pglock::detail
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
	critical_section(PGconn *connection, entrance entrance)
		: ref_(connection), connection_(*connection), session_(ref_.session()),
		  entrance_(std::move(entrance))
	{
		const key &key = entrance_.first_key();

		check_session(*session_, key);
		if (ref_.lost())
			throw connection_lost("the connection for \"" + key.text() + "\" is lost");
		switch (ref_.status())
		{
			case transaction_status::busy:
				throw_busy(key);
			case transaction_status::open:
			case transaction_status::failed:
				throw error("the critical section of " + entrance_.description() +
								" can't be part of a transaction",
							"25001");
			case transaction_status::idle:
				settle(ref_, *session_, entrance_.statements(), entrance_.limit());
				entrance_.check_conflicts(ref_, *session_);
		}
	}

	[[nodiscard]] std::vector<result>
	run(std::span<const query> queries)
	{
		prepares_ =
			entrance_.statements() != statements::unprepared && session_->troubles < most_troubles;
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

	/// Nothing: there is trouble with a prepared statement, and all has been rolled back.
	std::optional<std::vector<result>>
	attempt(std::span<const query> queries)
	{
		begin_wait();

		request enter = entrance_.asked();
		std::vector<result> results;
		pipeline pipeline(connection_, entrance_.wait_limit());

		results.reserve(queries.size());
		fault_.reset();
		send_work(pipeline, enter, queries);
		send_commit(pipeline);

		receive(pipeline, begin_statement);
		receive(pipeline, enter.what());
		end_wait();
		pipeline.limit({});
		for (std::size_t i = 1; i <= queries.size(); i++)
			results.push_back(receive(pipeline, i));

		result commit = answer_to(pipeline, commit_statement);

		pipeline.limit(entrance_.limit());

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

#if defined(__cpp_lib_jthread)
	[[nodiscard]] bool
	may_be_stopped() const noexcept
	{
		return entrance_.stop().stop_possible();
	}

	[[nodiscard]] bool
	is_stopped() const noexcept
	{
		return entrance_.stop().stop_requested();
	}

	/// From now on a request to stop ends the wait to be let in.
	void
	begin_wait()
	{
		if (is_stopped())
			throw_stopped();
		if (may_be_stopped())
			interrupter_.emplace(entrance_.stop(), ref_.control(), entrance_.grace());
	}

	/// The request may have met a statement that came after the wait.
	void
	end_wait() noexcept
	{
		interrupter_.reset();
	}
#else
	[[nodiscard]] bool
	may_be_stopped() const noexcept
	{
		return false;
	}

	[[nodiscard]] bool
	is_stopped() const noexcept
	{
		return false;
	}

	void
	begin_wait()
	{
	}

	void
	end_wait() noexcept
	{
	}
#endif

	[[noreturn]] void
	throw_stopped() const
	{
		throw stopped_error(entrance_.description() +
							" is not waited for any more: stop was requested");
	}

	/// If libpq fails here, nothing is done, since COMMIT is not sent.
	void
	send_work(pipeline &pipeline, const request &enter, std::span<const query> queries)
	{
		try
		{
			send(pipeline, begin_statement);
			send(pipeline, enter.what(), enter.values());
			// the server's time for the lock is known, that for the statements is not; and only a
			// wait for the lock is to be stopped
			if (entrance_.limit() || may_be_stopped())
				pipeline.flush();
			for (const query &each : queries)
				each.send(pipeline);
		}
		catch (const error &failure)
		{
			end_wait();
			if (pipeline.finish())
				throw;
			throw connection_lost(failure.what() + std::string(closed), failure.sqlstate());
		}
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
				message = "the critical section of " + entrance_.description() + " was ended by ";
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
		if (became == fate::rolled_back && sqlstate == "57014" && is_stopped())
			throw_stopped();
		if (became == fate::committed && sqlstate != "2D000")
			throw result_lost("the critical section of " + entrance_.description() +
								  " is committed, but an answer is lost: " + message,
							  sqlstate);
		if (fault_->what == &entrance_.asked().what())
			entrance_.throw_refused(sqlstate, message);
		throw_error(sqlstate, message);
	}

	[[noreturn]] void
	throw_unknown(std::string_view sqlstate, const std::string &message) const
	{
		throw outcome_unknown("it is not known whether the critical section of " +
								  entrance_.description() + " was committed: " + message,
							  sqlstate);
	}

	connection_ref ref_;
	PGconn &connection_;
	std::shared_ptr<session> session_;
	entrance entrance_;
#if defined(__cpp_lib_jthread)
	std::optional<interrupter> interrupter_;
#endif
	bool prepares_ = false;
	std::optional<fault> fault_;
};
} // namespace pglock::detail
