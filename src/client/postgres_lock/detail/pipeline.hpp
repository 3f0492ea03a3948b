// pipeline.hpp: one pipeline on a libpq connection, which it leaves as it was.
#pragma once

#include <libpq-fe.h>
#include <string>

#include "../connection.hpp"
#include "../libpq.hpp"

namespace pglock::detail
{
/// Commands go out without waiting for answers; the answers are read in the order of the commands.
/// The first that failed makes the server skip the others. At its end the pipeline reads what is
/// left, and rolls back a transaction that is still open.
///
/// The connection is made a blocking one, so that libpq, whenever it can't send, reads what the
/// server has to say: neither side can be kept waiting by the other's full buffers, however much
/// there is to send and to answer.
class pipeline
{
  public:
	/// The connection has no command and no transaction under way.
	explicit pipeline(PGconn &connection)
		: connection_(connection), was_nonblocking_(PQisnonblocking(&connection))
	{
		check(PQsetnonblocking(&connection_, 0) == 0);
		check(PQenterPipelineMode(&connection_) == 1);
	}

	pipeline(const pipeline &) = delete;
	pipeline &operator=(const pipeline &) = delete;

	~pipeline()
	{
		if (!is_sent_)
			PQpipelineSync(&connection_);
		while (!is_read_)
			(void)read();
		PQexitPipelineMode(&connection_);
		if (PQtransactionStatus(&connection_) != PQTRANS_IDLE)
			PQclear(PQexec(&connection_, "ROLLBACK"));
		PQsetnonblocking(&connection_, was_nonblocking_);
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

		if (answer != nullptr)
			(void)read(); // the end of the command
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
		result_ptr result(PQgetResult(&connection_));
		ExecStatusType status = PQresultStatus(result.get());
		bool is_null = result == nullptr;

		end_copy(status);
		is_read_ = status == PGRES_PIPELINE_SYNC || (is_null && was_null_);
		was_null_ = is_null;
		return result;
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
	bool is_sent_ = false;
	bool is_read_ = false;
	bool was_null_ = false;
};
} // namespace pglock::detail
