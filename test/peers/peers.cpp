// What locks cost, side by side: the same work with PostgreSQL's advisory locks, with what this
// project adds, and with the locks of Redis, MariaDB and etcd. They take turns, in rounds.
//
// Before that each of them has to show that it excludes: clients read a row and write it back with
// 1 more, and no update may get lost. A control without a lock shows that this would be noticed.
// All through the measurements it is counted how often a client gets a lock that another one has,
// and whether the row has been updated as often as it should have.
//
// See test/peers.sh, which starts the servers and passes the options.
#include <cstdio>
#include <list>
#include <map>
#include <mysql.h>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "arguments.hpp"
#include "network.hpp"
#include "peers.hpp"
#include "row.hpp"
#include "turns.hpp"

namespace
{
using nlohmann::json;

/// One comparison: whoever takes part does the same under the same circumstances.
struct comparison
{
	std::string name;
	::task task;
	bool synchronous_commit = true;
	int delay_us = 0;
};

/// Locks alone don't depend on synchronous_commit: those of sessions write nothing, and leases wait
/// for the disk at any rate.
std::vector<comparison>
comparisons(const std::vector<int> &delays)
{
	std::vector<comparison> all;

	for (int delay : delays)
	{
		for (int clients : {1, 4})
			all.push_back({"alone", {false, clients, work::nothing}, true, delay});
		for (int clients : {4, 32})
			all.push_back({"one key", {true, clients, work::nothing}, true, delay});
		for (bool synchronous_commit : {false, true})
			for (int clients : {1, 4, 16})
				all.push_back({"update", {true, clients, work::update}, synchronous_commit, delay});
	}
	return all;
}

/// The servers as they are seen over a network of so many microseconds each way.
class internet
{
  public:
	internet(const std::map<std::string, std::uint16_t> &servers, int delay_us)
	{
		for (const auto &[name, port] : servers)
			ports_[name] =
				delay_us == 0
					? port
					: networks_.emplace_back(port, std::chrono::microseconds(delay_us)).port();
	}

	[[nodiscard]] const std::map<std::string, std::uint16_t> &
	ports() const noexcept
	{
		return ports_;
	}

  private:
	std::list<network> networks_;
	std::map<std::string, std::uint16_t> ports_;
};

class trial
{
  public:
	trial(std::map<std::string, std::uint16_t> servers, const turns &turns)
		: servers_(std::move(servers)), turns_(turns), row_({servers_, true, {}})
	{
		peers_ = postgres_peers();
		for (peer &each : redis_peers())
			peers_.push_back(std::move(each));
		peers_.push_back(mariadb_peer());
		peers_.push_back(etcd_peer());
	}

	/// Throws if one doesn't exclude, or if that would not be noticed.
	void
	check()
	{
		auto lost = [&](const peer &peer) {
			std::int64_t before = row_.value(shared_key);
			figures seen = measure(
				[&] {
					return peer.connect({servers_, false, {}});
				},
				{true, 4, work::read_and_write}, turns_.time);

			return std::pair(seen.cycles - (row_.value(shared_key) - before), seen.overlaps);
		};

		std::printf("%-16s %12s %8s\n", "4 clients", "lost updates", "overlaps");
		for (const peer &peer : peers_)
		{
			auto [updates, overlaps] = lost(peer);

			std::printf("%-16s %12lld %8lld\n", peer.name.c_str(), static_cast<long long>(updates),
						static_cast<long long>(overlaps));
			if (updates != 0 || overlaps != 0)
				throw std::runtime_error(peer.name + " does not exclude");
		}
		for (int attempt = 0;; attempt++)
		{
			auto [updates, overlaps] = lost(no_lock());

			if (updates > 0 && overlaps > 0)
			{
				std::printf("%-16s %12lld %8lld\n", "no lock", static_cast<long long>(updates),
							static_cast<long long>(overlaps));
				break;
			}
			if (attempt == 50)
				throw std::runtime_error("nobody would notice if a lock did not exclude");
		}
	}

	json
	run(const comparison &compared)
	{
		internet network(servers_, compared.delay_us);
		places places{network.ports(), compared.synchronous_commit, {}};
		std::vector<competitor> taking_part;

		for (const peer &peer : peers_)
			if (!peer.needs_work || compared.task.work != work::nothing)
				taking_part.push_back({peer.name, [&] { return peer.connect(places); }});

		std::int64_t updates = row_.value(shared_key);
		json rows = compare(taking_part, compared.task, turns_,
							[&](const competitor &competitor, const figures &seen) {
								updates += compared.task.work == work::nothing ? 0 : seen.cycles;
								if (row_.value(shared_key) != updates)
									throw std::runtime_error(
										competitor.name + ": the row was not updated once a cycle");
							});

		for (json &row : rows)
			row.update({{"case", compared.name},
						{"clients", compared.task.clients},
						{"synchronous_commit", compared.synchronous_commit},
						{"delay_us", compared.delay_us}});
		return rows;
	}

  private:
	std::map<std::string, std::uint16_t> servers_;
	turns turns_;
	row row_;
	std::vector<peer> peers_;
};

void
print(const comparison &compared, const json &rows)
{
	std::printf("\n%s, %d client(s), network %d us, synchronous_commit %s\n", compared.name.c_str(),
				compared.task.clients, compared.delay_us,
				compared.synchronous_commit ? "on" : "off");
	std::printf("%-16s %10s %10s %10s %12s\n", "", "cycles/s", "p50 ms", "p99 ms", "to built-in");
	for (const json &row : rows)
		std::printf("%-16s %10.0f %10s %10s %12.2f\n", row["peer"].get<std::string>().c_str(),
					row["rate"].get<double>(), text_of(row["p50_ms"]).c_str(),
					text_of(row["p99_ms"]).c_str(), row["to_first"].get<double>());
	std::fflush(stdout);
}
} // namespace

int
main(int argc, char **argv)
try
{
	CLI::App options("Compares locks; see test/peers.sh");
	std::map<std::string, std::uint16_t> servers;
	std::vector<int> delays{0, 100, 1000};
	arguments common(options);

	options.add_option("--server", servers, "NAME PORT of a server")->required();
	options.add_option("--network", delays, "delays each way, in microseconds");
	CLI11_PARSE(options, argc, argv);

	mysql_library_init(0, nullptr, nullptr);

	trial trial(servers, common.turns());
	json results = json::array();

	trial.check();
	for (const comparison &compared : comparisons(delays))
	{
		json rows = trial.run(compared);

		print(compared, rows);
		results.insert(results.end(), rows.begin(), rows.end());
	}
	common.write(results);
}
catch (const std::exception &failure)
{
	std::fprintf(stderr, "%s\n", failure.what());
	return 1;
}
