// pipeline.hpp: one pipeline on a libpq connection, which it leaves as it was.
#pragma once

#include <libpq-fe.h>
#include <utility>

#include "../connection.hpp"
#include "../libpq.hpp"

namespace pglock::detail
{
/// Commands go out without waiting for answers; the answers are read in the order of the commands.
/// The first that failed makes the server skip the others. At its end the pipeline reads what is
/// left, and rolls back a transaction that is still open. If that can't be done, nobody knows what
/// the server makes of the next command, so it closes the connection.
///
/// Without a limit of time the connection is made a blocking one, so that libpq, whenever it can't
/// send, reads what the server has to say: neither side can be kept waiting by the other's full
/// buffers, however much there is to send and to answer. With one that is done while it waits.
class pipeline
{
  public:
	/// The connection has no command and no transaction under way.
	explicit pipeline(PGconn &connection, const deadline &until = {})
		: connection_(connection), was_nonblocking_(PQisnonblocking(&connection)), until_(until)
	{
		check(PQsetnonblocking(&connection_, until ? 1 : 0) == 0);
		check(PQenterPipelineMode(&connection_) == 1);
	}

	pipeline(const pipeline &) = delete;
	pipeline &operator=(const pipeline &) = delete;

	~pipeline()
	{
		finish();
	}

	/// The new limit for what is to come.
	void
	limit(const deadline &until) noexcept
	{
		until_ = until;
	}

	/// True: the connection is as it was. False: it is closed.
	bool
	finish() noexcept
	{
		if (std::exchange(is_finished_, true))
			return is_well_;
		if (!is_sent_)
			PQpipelineSync(&connection_);
		while (!is_read_)
			(void)read();
		is_well_ = is_synced_ && PQexitPipelineMode(&connection_) == 1 && roll_back();
		if (!is_well_)
			shut_down(connection_);
		PQsetnonblocking(&connection_, was_nonblocking_);
		return is_well_;
	}

	/// Has the server not answered in time?
	[[nodiscard]] bool
	is_late() const noexcept
	{
		return is_late_;
	}

	void
	prepare(const char *name, const char *text)
	{
		check(PQsendPrepare(&connection_, name, text, 0, nullptr) == 1);
	}

	void
	send(const char *text, parameters values = {})
	{
		check(PQsendQueryParams(&connection_, text, static_cast<int>(values.size()), nullptr,
								values.data(), nullptr, nullptr, 0) == 1);
	}

	void
	send_prepared(const char *name, parameters values)
	{
		check(PQsendQueryPrepared(&connection_, name, static_cast<int>(values.size()),
								  values.data(), nullptr, nullptr, 0) == 1);
	}

	/// Makes the server answer what it has been sent so far.
	void
	flush()
	{
		check(PQsendFlushRequest(&connection_) == 1);
	}

	/// To be called after the last command: now the server answers.
	void
	sync()
	{
		check(PQpipelineSync(&connection_) == 1);
		is_sent_ = true;
	}

	/// The answer to the next command: null if there is none, as the connection is lost.
	[[nodiscard]] result_ptr
	next() noexcept
	{
		result_ptr answer = read();

		// to the end of the command; COPY has two results
		for (bool ends = answer == nullptr; !ends && !is_read_;)
			ends = read() == nullptr;
		return answer;
	}

  private:
	void
	check(bool succeeded) const
	{
		if (!succeeded)
			throw_libpq_error(connection_, nullptr);
	}

	/// One result, or the null between the results of two commands. After two nulls there is
	/// nothing more to come.
	result_ptr
	read() noexcept
	{
		if (is_read_)
			return {};
		if (PQisnonblocking(&connection_) != 0 && !wait_for_answer(connection_, until_))
		{
			is_late_ = is_read_ = true;
			shut_down(connection_);
			return {};
		}

		result_ptr result(PQgetResult(&connection_));
		ExecStatusType status = PQresultStatus(result.get());
		bool is_null = result == nullptr;

		end_copy(status);
		is_synced_ = status == PGRES_PIPELINE_SYNC;
		is_read_ = is_synced_ || (is_null && was_null_);
		was_null_ = is_null;
		return result;
	}

	[[nodiscard]] bool
	roll_back() noexcept
	{
		if (PQtransactionStatus(&connection_) == PQTRANS_IDLE)
			return true;
		try
		{
			result_ptr answer = converse(connection_, until_,
										 [&] { return PQsendQuery(&connection_, "ROLLBACK"); });

			return PQresultStatus(answer.get()) == PGRES_COMMAND_OK &&
				   PQtransactionStatus(&connection_) == PQTRANS_IDLE;
		}
		catch (const error &)
		{
			return false;
		}
	}

	/// COPY is not for pipelines, but a prepared statement may be one. That from the client costs
	/// the connection: the server can't make sense of what follows.
	void
	end_copy(ExecStatusType status) noexcept
	{
		char *row = nullptr;

		if (status == PGRES_COPY_IN || status == PGRES_COPY_BOTH)
			PQputCopyEnd(&connection_, "COPY is not possible in a pipeline");
		if (status == PGRES_COPY_OUT)
			while (PQgetCopyData(&connection_, &row, 0) > 0)
				PQfreemem(row);
	}

	PGconn &connection_;
	int was_nonblocking_;
	deadline until_;
	bool is_sent_ = false;
	bool is_read_ = false;
	bool is_synced_ = false;
	bool is_late_ = false;
	bool is_finished_ = false;
	bool is_well_ = false;
	bool was_null_ = false;
};
} // namespace pglock::detail
