// servers.hpp: sessions of many servers, which SERVERS in the environment names: a connection
// string a line.
#pragma once

#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

#include <postgres_lock/cluster.hpp>

#include "server.hpp"

namespace server
{
[[nodiscard]] inline const std::vector<std::string> &
all_servers()
{
	static const std::vector<std::string> all = [] {
		const char *names = std::getenv("SERVERS");
		std::istringstream lines(names != nullptr ? names : "");
		std::vector<std::string> found;

		for (std::string line; std::getline(lines, line);)
			found.push_back(line);
		return found;
	}();

	return all;
}

/// A session of each server.
struct libpq_sessions
{
	std::vector<libpq_session> sessions = [] {
		std::vector<libpq_session> made;

		for (const std::string &each : all_servers())
			made.emplace_back(each.c_str());
		return made;
	}();

	pglock::cluster servers = [this] {
		std::vector<pglock::connection_ref> connections;

		for (const libpq_session &each : sessions)
			connections.push_back(each.ref());
		return pglock::cluster(connections);
	}();
};

/// How many locks and slots are held or waited for on each server that answers.
[[nodiscard]] inline std::vector<int>
count_locks()
{
	std::vector<int> counts;

	for (const std::string &each : all_servers())
		try
		{
			counts.push_back(std::stoi(libpq_session(each.c_str())
										   .query("SELECT count(*) FROM pg_locks "
												  "WHERE locktype = 'advisory'")));
		}
		catch (const std::runtime_error &)
		{
			counts.push_back(0);
		}
	return counts;
}

/// A key of that server, another one for each number.
[[nodiscard]] inline std::string
key_on(std::size_t server, int number = 0)
{
	for (int i = 0;; i++)
	{
		std::string key = "key " + std::to_string(i);

		if (pglock::server_of(key, all_servers().size()) == server && number-- == 0)
			return key;
	}
}
} // namespace server
