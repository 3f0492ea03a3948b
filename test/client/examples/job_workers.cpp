// Workers of a job queue: of all programs that run this, on whatever machines, WORKERS work, each
// on a share of its own. The others wait, and take the place of one that ends.
//
//   job_workers NAME WORKERS
//
// A worker's slot is its index: of the table `jobs` it does those whose id, modulo WORKERS, is
// that. So the jobs of a share are done one after the other, though the program may be started
// anywhere and as often as one likes. The slot is the connection's: a worker that has lost it can't
// write, and one that is killed has left.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>

#include <postgres_lock/libpq.hpp>

namespace
{
/// Does the next job of a share. False: there is none.
bool
do_job(pglock::connection_ref connection, const char *name, const std::string &workers,
	   const std::string &index)
{
	const char *values[] = {name, workers.c_str(), index.c_str()};

	return connection
		.execute("UPDATE jobs SET done_by = $1 WHERE id = (SELECT min(id) FROM jobs "
				 "WHERE done_by IS NULL AND id % $2::integer = $3::integer) RETURNING id",
				 values)
		.has_value();
}
} // namespace

int
main(int argc, char **argv)
{
	if (argc != 3)
	{
		std::fprintf(stderr, "usage: job_workers NAME WORKERS\n");
		return 2;
	}

	std::unique_ptr<PGconn, decltype(&PQfinish)> connection(PQconnectdb(""), PQfinish);

	try
	{
		pglock::slot_guard guard(connection.get(), "workers", std::atoi(argv[2]));
		std::string index = std::to_string(guard.slot() - 1);

		std::printf("%s is worker %s\n", argv[1], index.c_str());
		std::fflush(stdout);
		for (;;)
			if (!do_job(connection.get(), argv[1], argv[2], index))
				std::this_thread::sleep_for(std::chrono::milliseconds(100));
	}
	catch (const pglock::error &error)
	{
		std::fprintf(stderr, "%s: %s\n", argv[1], error.what());
		return 1;
	}
}
