// Runs a command that must not overlap with others which use the same things, where these have
// their locks on many servers.
//
//   many_servers COMMAND THING,THING,... SERVER...
//
// The servers are connection strings, in the same order in all programs. A server that is down
// hinders only those who use one of its things. If one of the things is in use, the command is not
// run.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include <postgres_lock/cluster.hpp>
#include <postgres_lock/libpq.hpp>

namespace
{
struct finish
{
	void
	operator()(PGconn *connection) const noexcept
	{
		PQfinish(connection);
	}
};

using connections = std::vector<std::unique_ptr<PGconn, finish>>;

std::vector<std::string>
things_of(const std::string &text)
{
	std::vector<std::string> things;
	std::istringstream names(text);

	for (std::string name; std::getline(names, name, ',');)
		things.push_back(name);
	return things;
}

/// Takes the locks if they are to be had. A connection that is lost is opened anew, once.
std::optional<pglock::cluster_guard>
take(const pglock::cluster &servers, const connections &sessions,
	 const std::vector<std::string> &things)
{
	try
	{
		return pglock::try_guard(servers, things);
	}
	catch (const pglock::server_lost &lost)
	{
		PQreset(sessions[lost.server()].get());
	}
	return pglock::try_guard(servers, things);
}
} // namespace

int
main(int argc, char **argv)
{
	if (argc < 4)
	{
		std::fprintf(stderr, "usage: many_servers COMMAND THING,THING,... SERVER...\n");
		return 2;
	}
	try
	{
		connections sessions;
		std::vector<PGconn *> pointers;

		for (int i = 3; i < argc; i++)
			pointers.push_back(sessions.emplace_back(PQconnectdb(argv[i])).get());

		pglock::cluster servers(pointers);
		auto guard = take(servers, sessions, things_of(argv[2]));

		if (!guard)
		{
			std::printf("in use\n");
			return 0;
		}

		int status = std::system(argv[1]);

		if (guard->lost())
		{
			std::fprintf(stderr, "a lock was lost while the command ran\n");
			return 1;
		}
		return status == 0 ? 0 : 1;
	}
	catch (const std::exception &failure)
	{
		std::fprintf(stderr, "%s\n", failure.what());
		return 1;
	}
}
