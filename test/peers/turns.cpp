#include "turns.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <numeric>
#include <stdexcept>

namespace
{
using nlohmann::json;

struct record
{
	std::vector<double> rates;
	std::vector<double> waits;
};

double
quantile(std::vector<double> values, double share)
{
	auto nth = values.begin() +
			   static_cast<std::ptrdiff_t>(share * static_cast<double>(values.size() - 1) + 0.5);

	std::nth_element(values.begin(), nth, values.end());
	return *nth;
}

json
summary(const std::string &name, const record &own, const record &first)
{
	std::vector<double> ratios;

	for (std::size_t round = 0; round < own.rates.size(); round++)
		ratios.push_back(own.rates[round] / first.rates[round]);

	json row{{"peer", name},
			 {"rates", own.rates},
			 {"rate", quantile(own.rates, 0.5)},
			 {"to_first", quantile(ratios, 0.5)},
			 {"p50_ms", nullptr},
			 {"p99_ms", nullptr}};

	if (!own.waits.empty())
	{
		row["p50_ms"] = quantile(own.waits, 0.5);
		row["p99_ms"] = quantile(own.waits, 0.99);
	}
	return row;
}
} // namespace

json
compare(const std::vector<competitor> &competitors, const task &task, const turns &turns,
		const std::function<void(const competitor &, const figures &)> &check)
{
	std::vector<record> records(competitors.size());
	std::vector<std::size_t> order(competitors.size());

	std::iota(order.begin(), order.end(), 0);
	for (int round = 0; round < turns.rounds; round++)
	{
		for (std::size_t i : order)
		{
			figures seen = measure(competitors[i].connect, task, turns.time);

			if (seen.overlaps != 0)
				throw std::runtime_error(competitors[i].name +
										 ": two clients had the lock at a time");
			if (check)
				check(competitors[i], seen);
			records[i].rates.push_back(seen.rate);
			records[i].waits.insert(records[i].waits.end(), seen.waits.begin(), seen.waits.end());
		}
		// who was first is last
		std::reverse(order.begin(), order.end());
	}

	json rows = json::array();

	for (std::size_t i = 0; i < competitors.size(); i++)
		rows.push_back(summary(competitors[i].name, records[i], records.front()));
	return rows;
}

std::string
text_of(const json &number)
{
	std::array<char, 32> text{"-"};

	if (!number.is_null())
		std::snprintf(text.data(), text.size(), "%.3f", number.get<double>());
	return text.data();
}
