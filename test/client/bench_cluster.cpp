// A lock of a cluster of four servers, which are one here, done so many TIMES, for who counts
// instructions.
//
//   bench_cluster TIMESx
#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>

#include <postgres_lock/cluster.hpp>
#include <postgres_lock/libpq.hpp>

int
main(int argc, char **argv)
try
{
	if (argc != 2)
		throw std::runtime_error("usage: bench_cluster TIMESx");

	std::unique_ptr<PGconn, decltype(&PQfinish)> owner(PQconnectdb(""), PQfinish);
	PGconn *connection = owner.get();
	pglock::cluster servers{connection, connection, connection, connection};

	for (int left = std::stoi(argv[1]); left > 0; left--)
		pglock::cluster_guard guard(servers, "order:42");
}
catch (const std::exception &failure)
{
	std::fprintf(stderr, "%s\n", failure.what());
	return 1;
}
