// turns.hpp: clients of several kinds that do the same by turns, and what comes of it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "measure.hpp"

/// How long a turn takes, and how many each of them has.
struct turns
{
	std::chrono::duration<double> time;
	int rounds = 1;
};

/// What takes its turn, by its name.
struct competitor
{
	std::string name;
	std::function<std::unique_ptr<client>()> connect;
};

/// For each of them in the order given: the `rates` of its turns, their median `rate`, the median
/// of the ratios to the first in the same round `to_first`, and the waits `p50_ms` and `p99_ms`,
/// which may be null. `check` is told of each turn; no client may ever have had the lock of
/// another.
nlohmann::json compare(const std::vector<competitor> &competitors, const task &task,
					   const turns &turns,
					   const std::function<void(const competitor &, const figures &)> &check = {});

/// "-" for null.
std::string text_of(const nlohmann::json &number);
