// A cache that is read by many, and rebuilt by one: a report that takes long to make, kept in a
// file that several programs share.
//
//   cache_rebuild FILE
//
// prints the file. If it is not there, one of those who want it makes it, and the others wait for
// that one; nobody reads half of it. To have it made anew, remove it.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>

#include <postgres_lock/libpq.hpp>

namespace
{
void
rebuild(PGconn *connection, const std::string &file)
{
	std::unique_ptr<PGresult, decltype(&PQclear)> report(PQexec(connection,
																"SELECT sum(amount) FROM sales"),
														 PQclear);

	if (PQresultStatus(report.get()) != PGRES_TUPLES_OK)
		throw std::runtime_error(PQerrorMessage(connection));
	std::ofstream(file) << "sales: " << PQgetvalue(report.get(), 0, 0) << "\n";
	std::cout << "rebuilt\n";
}

void
show(PGconn *connection, const std::string &file)
{
	pglock::shared_mutex cache(connection, "cache:" + file);

	for (;;)
	{
		{
			std::shared_lock reading(cache);

			if (std::filesystem::exists(file))
			{
				std::cout << std::ifstream(file).rdbuf();
				return;
			}
		}

		std::lock_guard rebuilding(cache);

		// while we waited, somebody else may have done it
		if (!std::filesystem::exists(file))
			rebuild(connection, file);
	}
}
} // namespace

int
main(int argc, char **argv)
{
	if (argc != 2)
	{
		std::fprintf(stderr, "usage: cache_rebuild FILE\n");
		return 2;
	}

	std::unique_ptr<PGconn, decltype(&PQfinish)> connection(PQconnectdb(""), PQfinish);

	try
	{
		show(connection.get(), argv[1]);
	}
	catch (const std::exception &error)
	{
		std::fprintf(stderr, "%s: %s\n", argv[1], error.what());
		return 1;
	}
}
