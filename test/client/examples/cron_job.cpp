// A job that must not overlap: cron starts it on several machines, or again before it has ended.
//
//   cron_job NAME COMMAND
//
// runs the command if no other session holds the lock NAME, and leaves otherwise. libpq's
// environment says where the database is. The lock ends with the job, also if this program or its
// machine dies.
#include <cstdio>
#include <cstdlib>
#include <memory>

#include <postgres_lock/libpq.hpp>

int
main(int argc, char **argv)
{
	if (argc != 3)
	{
		std::fprintf(stderr, "usage: cron_job NAME COMMAND\n");
		return 2;
	}

	std::unique_ptr<PGconn, decltype(&PQfinish)> connection(PQconnectdb(""), PQfinish);

	try
	{
		pglock::lock job(connection.get(), argv[1]);

		if (!job.try_acquire())
		{
			std::printf("%s is running already\n", argv[1]);
			return 0;
		}

		int status = std::system(argv[2]);

		job.release(); // throws if the lock was lost, so that another job may have begun meanwhile
		return status == 0 ? 0 : 1;
	}
	catch (const pglock::error &error)
	{
		std::fprintf(stderr, "%s: %s\n", argv[1], error.what());
		return 1;
	}
}
