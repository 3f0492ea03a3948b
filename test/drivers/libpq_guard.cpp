// The C++ client, over libpq: a worker like those of the drivers (see test/perl/Worker.pm), which
// have no library of ours. Its guard is what the others' recipes are.

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include <postgres_lock/libpq.hpp>

namespace
{
struct failure
{
};

struct sql_error
{
	std::string state;
};

PGconn *connection;
pglock::statements statements = pglock::statements::automatic;

void
say(const std::string &what, const std::string &more = {})
{
	std::cout << what << '\t' << more << std::endl;
}

std::string
run(const std::string &sql)
{
	PGresult *result = PQexec(connection, sql.c_str());
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	const sql_error error{state ? state : ""};
	const std::string value = PQntuples(result) > 0 ? PQgetvalue(result, 0, 0) : "";

	PQclear(result);
	if (!error.state.empty())
		throw error;
	return value;
}

std::vector<std::string>
words_of(const std::string &line)
{
	std::vector<std::string> words{""};

	for (const char c : line)
	{
		if (c == '\t')
			words.emplace_back();
		else
			words.back() += c;
	}
	return words;
}

bool block();

void
lock(const std::vector<std::string> &words)
{
	const pglock::key key =
		words.at(2) == "integer" ? pglock::key(std::stoll(words.at(1))) : pglock::key(words.at(1));
	pglock::options options{.shared = words.at(4) == "shared",
							.scope = words.at(5) == "session" ? pglock::scope::session
															  : pglock::scope::transaction,
							.statements = statements};

	if (!words.at(3).empty())
		options.timeout = std::chrono::milliseconds(std::stoll(words.at(3)));
	{
		pglock::guard guard(connection, key, options);

		say("held");
		block();
	}
	say("released");
}

void
example()
{
	pglock::guard guard(connection, "order:42", {.timeout = std::chrono::seconds(5)});

	run("UPDATE orders SET state = 'paid' WHERE id = 42");
}

void
command(const std::vector<std::string> &words)
{
	if (words.at(0) == "lock")
		lock(words);
	else if (words.at(0) == "run")
		say("row", run(words.at(1)));
	else if (words.at(0) == "example")
	{
		example();
		say("done");
	}
	else if (words.at(0) == "fail")
		throw failure();
	else
	{
		run("BEGIN");
		say("begun");
		if (words.at(0) != "transaction")
			return;
		try
		{
			block();
		}
		catch (...)
		{
			run("ROLLBACK");
			throw;
		}
		run("COMMIT");
		say("committed");
	}
}

// Does what it is told until the end of the block that it is in: true; or of the input: false.
bool
block()
{
	for (std::string line; std::getline(std::cin, line);)
	{
		if (line == "end")
			return true;
		try
		{
			command(words_of(line));
		}
		catch (const std::system_error &)
		{
			say("error", "deadlock");
		}
		catch (const pglock::error &error)
		{
			say("error", std::string(error.sqlstate()));
		}
		catch (const sql_error &error)
		{
			say("error", error.state);
		}
	}
	return false;
}
} // namespace

int
main(int argc, char **argv)
{
	const std::string mode = argc > 1 ? argv[1] : "";

	if (mode == "prepared")
		statements = pglock::statements::prepared;
	if (mode == "unprepared")
		statements = pglock::statements::unprepared;
	connection = PQconnectdb("");
	if (PQstatus(connection) != CONNECTION_OK)
		return EXIT_FAILURE;
	say("ready", std::to_string(PQlibVersion()));
	for (bool more = true; more;)
	{
		try
		{
			more = block();
		}
		catch (const failure &)
		{
			say("failed");
		}
	}
	PQfinish(connection);
	return EXIT_SUCCESS;
}
