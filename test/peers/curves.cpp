// How the cost of a lock depends on how much else there is: connections, waiters, locks held, keys
// that are waited for, leases. The built-in functions are measured beside, by turns.
//
// See test/curves.sh, which starts the server and passes the options.
#include <atomic>
#include <cstdio>
#include <optional>
#include <stop_token>
#include <thread>

#include "arguments.hpp"
#include "peers.hpp"
#include "row.hpp"
#include "turns.hpp"

namespace
{
using nlohmann::json;
using std::to_string;

/// So many keys or leases, by a function that takes one.
std::string
takes(const std::string &function, int count)
{
	return "SELECT count(*) FROM (SELECT " + function + " FROM generate_series(1, " +
		   to_string(count) + ") AS n) AS taken";
}

std::string
takes_locks(const peer &peer, int count)
{
	return takes(peer.name == "built-in" ? "pg_advisory_lock(hashtextextended('held:' || n, 0))"
										 : "pglock.acquire('held:' || n)",
				 count);
}

std::string
reads_view(const peer &peer)
{
	return std::string("SELECT count(*) FROM ") +
		   (peer.name == "built-in" ? "pg_locks" : "pglock.locks");
}

/// A session that holds something, and may read a view ten times a second.
class bystander
{
  public:
	bystander(const places &places, const std::string &holds, const std::string &reads)
		: row_(places)
	{
		row_.execute_all(holds);
		if (!reads.empty())
			reader_ = std::jthread([this, reads](const std::stop_token &stop) {
				while (!stop.stop_requested())
				{
					row_.execute_all(reads);
					std::this_thread::sleep_for(std::chrono::milliseconds(100));
				}
			});
	}

  private:
	row row_;
	std::jthread reader_;
};

/// Walks from key to key, so that always four clients in a row want the same one.
class walking_client final : public client
{
  public:
	walking_client(std::unique_ptr<client> inner, int keys) : inner_(std::move(inner)), keys_(keys)
	{
	}

	void
	cycle(const std::string &, work work, witness &witness) override
	{
		static std::atomic<int> steps = 0;

		inner_->cycle("key:" + to_string(steps++ / 4 % keys_), work, witness);
	}

  private:
	std::unique_ptr<client> inner_;
	int keys_;
};

class curves
{
  public:
	curves(std::uint16_t port, const turns &turns, int limit)
		: places_{{{"postgres", port}}, false, {}}, turns_(turns), limit_(limit)
	{
		for (peer &each : postgres_peers())
			if (!each.needs_work)
				peers_.push_back(std::move(each));
		lease_ = peers_.back();
		peers_.pop_back();
	}

	void
	measure_all()
	{
		along("connections, each with its own key", {1, 2, 5, 10, 20, 50, 100, 200},
			  [&](int count) {
				  return compare(competitors(), {false, count}, turns_);
			  });
		along("clients that want one key", {2, 5, 10, 20, 50, 100, 200, 500}, [&](int count) {
			return compare(competitors(), {true, count}, turns_);
		});
		along("locks held by another session", held,
			  [&](int count) { return beside(count, false); });
		along("locks held by another session that reads the view", held,
			  [&](int count) { return beside(count, true); });
		along("locks held by the session itself", held, [&](int count) {
			return compare(competitors([&](const peer &peer) { return takes_locks(peer, count); }),
						   {false, 1}, turns_);
		});
		along("keys that 4 clients wait for", {1, 10, 100, 1000, 2000, 5000, 10000},
			  [&](int count) { return walk(count); });
		along("leases of others", held, [&](int count) { return beside_leases(count); });
	}

	[[nodiscard]] const json &
	rows() const noexcept
	{
		return rows_;
	}

  private:
	inline static const std::vector<int> held{1, 10, 100, 1000, 10000, 100000};

	void
	along(const char *curve, const std::vector<int> &counts, const std::function<json(int)> &point)
	{
		std::printf("\n%-10s %-16s %10s %10s %10s %12s   %s\n", "", "", "cycles/s", "p50 ms",
					"p99 ms", "to built-in", curve);
		for (int count : counts)
		{
			if (count > limit_)
				break;
			for (json &row : point(count))
			{
				std::printf("%-10d %-16s %10.0f %10s %10s %12.2f\n", count,
							row["peer"].get<std::string>().c_str(), row["rate"].get<double>(),
							text_of(row["p50_ms"]).c_str(), text_of(row["p99_ms"]).c_str(),
							row["to_first"].get<double>());
				row.update({{"curve", curve}, {"count", count}});
				rows_.push_back(row);
			}
			std::fflush(stdout);
		}
	}

	[[nodiscard]] std::vector<competitor>
	competitors(const std::function<std::string(const peer &)> &prelude = {}) const
	{
		std::vector<competitor> all;

		for (const peer &peer : peers_)
			all.push_back({peer.name, [this, &peer, prelude] {
							   return peer.connect({places_.ports, places_.synchronous_commit,
													prelude ? prelude(peer) : ""});
						   }});
		return all;
	}

	/// Each kind of client beside locks of its kind.
	json
	beside(int count, bool reads) const
	{
		json rows = json::array();
		auto all = competitors();
		std::optional<bystander> other;

		for (competitor &each : all)
		{
			const peer &peer = peers_[static_cast<std::size_t>(&each - all.data())];

			// the first client of a turn comes after the bystander of the turn before has gone
			each.connect = [&, connect = each.connect] {
				other.reset();
				other.emplace(places_, takes_locks(peer, count), reads ? reads_view(peer) : "");
				return connect();
			};
		}
		return compare(all, {false, 1}, turns_);
	}

	json
	walk(int keys) const
	{
		auto all = competitors();

		for (competitor &each : all)
			each.connect = [connect = each.connect, keys] {
				return std::make_unique<walking_client>(connect(), keys);
			};
		return compare(all, {false, 4}, turns_);
	}

	json
	beside_leases(int count) const
	{
		row other(places_);
		auto all = competitors();

		all.push_back({lease_.name, [&] { return lease_.connect(places_); }});
		other.execute_all(takes("pglock.acquire_lease('held:' || n, '1 day')", count));

		json rows = compare(all, {false, 1}, turns_);

		other.execute_all(takes("pglock.revoke_lease('held:' || n)", count));
		return rows;
	}

	places places_;
	turns turns_;
	int limit_;
	std::vector<peer> peers_;
	peer lease_;
	json rows_ = json::array();
};
} // namespace

int
main(int argc, char **argv)
try
{
	CLI::App options("How locks scale; see test/curves.sh");
	std::uint16_t port = 0;
	int limit = 100000;
	arguments common(options);

	options.add_option("--port", port, "of PostgreSQL")->required();
	options.add_option("--limit", limit, "to which number the curves go");
	CLI11_PARSE(options, argc, argv);

	curves curves(port, common.turns(), limit);

	curves.measure_all();
	common.write(curves.rows());
}
catch (const std::exception &failure)
{
	std::fprintf(stderr, "%s\n", failure.what());
	return 1;
}
