// What the C++ client costs, against what one would write by hand with libpq: how often a second a
// case can be done over one connection. Or it is done so many TIMES, for who counts instructions.
//
//   bench CASE SECONDS [DELAY]
//   bench CASE TIMESx
//
// DELAY is that of a network, in microseconds each way.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include <postgres_lock/critical_section.hpp>

#include "relay.hpp"

namespace
{
using clock_type = std::chrono::steady_clock;

/// By hand: a prepared statement with one parameter.
void
execute(PGconn *connection, const char *name, const char *value)
{
	PGresult *answer = PQexecPrepared(connection, name, 1, &value, nullptr, nullptr, 0);
	ExecStatusType status = PQresultStatus(answer);

	PQclear(answer);
	if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
		throw std::runtime_error(PQerrorMessage(connection));
}

void
prepare(PGconn *connection)
{
	for (const auto &[name, text] : std::initializer_list<std::pair<const char *, const char *>>{
			 {"lock", "SELECT pg_advisory_lock(hashtextextended($1, 0))"},
			 {"unlock", "SELECT pg_advisory_unlock(hashtextextended($1, 0))"},
			 {"update", "UPDATE counters SET value = value + 1 WHERE name = $1"}})
	{
		PGresult *answer = PQprepare(connection, name, text, 0, nullptr);
		ExecStatusType status = PQresultStatus(answer);

		PQclear(answer);
		if (status != PGRES_COMMAND_OK)
			throw std::runtime_error(PQerrorMessage(connection));
	}
}

double
rate(const std::function<void()> &once, double seconds)
{
	auto run = [&](double time) {
		auto start = clock_type::now();
		std::chrono::duration<double> passed{};
		double count = 0;

		while ((passed = clock_type::now() - start).count() < time)
		{
			once();
			count++;
		}
		return count / passed.count();
	};

	run(seconds / 10);
	return run(seconds);
}
} // namespace

int
main(int argc, char **argv)
try
{
	if (argc < 3)
		throw std::runtime_error("usage: bench CASE SECONDS [DELAY]");

	std::optional<relay> network;
	std::string server;

	if (argc > 3)
		server = "host=" + network.emplace(std::chrono::microseconds(std::atoi(argv[3]))).folder();

	std::unique_ptr<PGconn, decltype(&PQfinish)> owner(PQconnectdb(server.c_str()), PQfinish);
	PGconn *connection = owner.get();
	std::map<std::string, std::function<void()>> cases{
		{"guard", [&] { pglock::guard guard(connection, "order:42"); }},
		{"guard_by_hand",
		 [&] {
			 execute(connection, "lock", "order:42");
			 execute(connection, "unlock", "order:42");
		 }},
		{"section",
		 [&] {
			 pglock::critical_section(connection, "order:42",
									  pglock::query::prepared("update", {"order:42"}));
		 }},
		{"section_by_hand",
		 [&] {
			 execute(connection, "lock", "order:42");
			 execute(connection, "update", "order:42");
			 execute(connection, "unlock", "order:42");
		 }},
	};

	prepare(connection);

	const auto &once = cases.at(argv[1]);
	std::string length = argv[2];

	if (length.ends_with('x'))
		for (int left = std::stoi(length); left > 0; left--)
			once();
	else
		std::printf("%.0f\n", rate(once, std::stod(length)));
}
catch (const std::exception &failure)
{
	std::fprintf(stderr, "%s\n", failure.what());
	return 1;
}
