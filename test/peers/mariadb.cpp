// mariadb.cpp: GET_LOCK and RELEASE_LOCK, prepared. There is no waiting for ever.
#include <array>
#include <memory>
#include <mysql.h>
#include <stdexcept>

#include "peers.hpp"
#include "row.hpp"

namespace
{
/// A statement with a text as its parameter, and a number as its answer.
class prepared_statement
{
  public:
	prepared_statement(MYSQL *connection, const std::string &text)
		: statement_(mysql_stmt_init(connection))
	{
		if (!statement_)
			throw std::runtime_error("no memory for a statement of MariaDB");
		check(mysql_stmt_prepare(statement_.get(), text.c_str(), text.size()));
	}

	long long
	execute(const std::string &parameter)
	{
		unsigned long length = parameter.size();
		long long number = 0;
		MYSQL_BIND in{};
		MYSQL_BIND out{};

		in.buffer_type = MYSQL_TYPE_STRING;
		in.buffer = const_cast<char *>(parameter.data());
		in.buffer_length = length;
		in.length = &length;
		out.buffer_type = MYSQL_TYPE_LONGLONG;
		out.buffer = &number;
		check(mysql_stmt_bind_param(statement_.get(), &in));
		check(mysql_stmt_execute(statement_.get()));
		check(mysql_stmt_bind_result(statement_.get(), &out));
		check(mysql_stmt_fetch(statement_.get()));
		check(mysql_stmt_free_result(statement_.get()));
		return number;
	}

  private:
	void
	check(int failure)
	{
		if (failure != 0)
			throw std::runtime_error(mysql_stmt_error(statement_.get()));
	}

	std::unique_ptr<MYSQL_STMT, ended_by<mysql_stmt_close>> statement_;
};

class mariadb_client final : public outside_client
{
  public:
	explicit mariadb_client(const places &places)
		: outside_client(places), connection_(connect(places.ports.at("mariadb"))),
		  acquire_(connection_.get(), "SELECT GET_LOCK(?, 3600)"),
		  release_(connection_.get(), "SELECT RELEASE_LOCK(?)")
	{
	}

  protected:
	void
	acquire(const std::string &key) override
	{
		if (acquire_.execute(key) != 1)
			throw std::runtime_error("MariaDB refuses a lock");
	}

	void
	release(const std::string &key) override
	{
		if (release_.execute(key) != 1)
			throw std::runtime_error("a lock of MariaDB was not held any more");
	}

  private:
	static std::unique_ptr<MYSQL, ended_by<mysql_close>>
	connect(unsigned port)
	{
		std::unique_ptr<MYSQL, ended_by<mysql_close>> made(mysql_init(nullptr));

		if (!made || mysql_real_connect(made.get(), "127.0.0.1", "peers", "", nullptr, port,
										nullptr, 0) == nullptr)
			throw std::runtime_error(made ? mysql_error(made.get()) : "no memory for MariaDB");
		return made;
	}

	std::unique_ptr<MYSQL, ended_by<mysql_close>> connection_;
	prepared_statement acquire_;
	prepared_statement release_;
};
} // namespace

peer
mariadb_peer()
{
	return {"MariaDB", false, [](const places &places) -> std::unique_ptr<client> {
				return std::make_unique<mariadb_client>(places);
			}};
}
