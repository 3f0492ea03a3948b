// row.hpp: the row in PostgreSQL that all clients update, and the connection to it.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <libpq-fe.h>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "client.hpp"

class row
{
  public:
	explicit row(const places &places)
		: connection_(PQconnectdb(
			  ("host=127.0.0.1 user=postgres dbname=postgres port=" +
			   std::to_string(places.ports.at("postgres")) +
			   " options='-c synchronous_commit=" + (places.synchronous_commit ? "on'" : "off'"))
				  .c_str()))
	{
		if (PQstatus(get()) != CONNECTION_OK)
			throw std::runtime_error(PQerrorMessage(get()));
		if (!places.prelude.empty())
			execute_all(places.prelude);
		prepare({{"update", "UPDATE counters SET value = value + 1 WHERE name = $1"},
				 {"read", "SELECT set_config('peers.seen', value::text, false) FROM counters "
						  "WHERE name = $1"},
				 {"write", "UPDATE counters SET value = current_setting('peers.seen')::bigint + 1 "
						   "WHERE name = $1"},
				 {"value", "SELECT value FROM counters WHERE name = $1"}});
	}

	[[nodiscard]] PGconn *
	get() const noexcept
	{
		return connection_.get();
	}

	void
	prepare(std::initializer_list<std::pair<const char *, const char *>> statements)
	{
		for (const auto &[name, text] : statements)
			check(PQprepare(get(), name, text, 0, nullptr));
	}

	/// Runs a prepared statement with one parameter, and returns the first value of its answer.
	std::string
	execute(const char *statement, const std::string &parameter)
	{
		const char *value = parameter.c_str();

		return check(PQexecPrepared(get(), statement, 1, &value, nullptr, nullptr, 0));
	}

	/// Runs SQL, without parameters.
	std::string
	execute_all(const std::string &statements)
	{
		return check(PQexec(get(), statements.c_str()));
	}

	/// Each statement commits by itself.
	void
	perform(work work, const std::string &key)
	{
		switch (work)
		{
			case work::nothing:
				break;
			case work::update:
				execute("update", key);
				break;
			case work::read_and_write:
				execute("read", key);
				execute("write", key);
				break;
		}
	}

	[[nodiscard]] std::int64_t
	value(const std::string &key)
	{
		return std::stoll(execute("value", key));
	}

  private:
	std::string
	check(PGresult *answer)
	{
		ExecStatusType status = PQresultStatus(answer);
		std::string value =
			status == PGRES_TUPLES_OK && PQntuples(answer) > 0 ? PQgetvalue(answer, 0, 0) : "";

		PQclear(answer);
		if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
			throw std::runtime_error(PQerrorMessage(get()));
		return value;
	}

	std::unique_ptr<PGconn, ended_by<PQfinish>> connection_;
};

/// A client that asks one server for the lock, and another session of PostgreSQL for the row.
class outside_client : public client
{
  public:
	explicit outside_client(const places &places) : row_(places)
	{
	}

	void
	cycle(const std::string &key, work work, witness &witness) final
	{
		acquire(key);
		witness.acquired();
		row_.perform(work, key);
		witness.releasing();
		release(key);
	}

  protected:
	virtual void acquire(const std::string &key) = 0;
	virtual void release(const std::string &key) = 0;

	[[nodiscard]] row &
	own_row() noexcept
	{
		return row_;
	}

  private:
	row row_;
};
