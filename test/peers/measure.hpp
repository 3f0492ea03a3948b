// measure.hpp: clients that work at the same time, each in a thread of its own, and what they get
// done.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "client.hpp"

struct task
{
	/// One key for all, or for each its own.
	bool shared_key = false;
	int clients = 1;
	::work work = work::nothing;
};

struct figures
{
	/// Of the time that was measured: cycles in a second, and how many ms it took to acquire.
	/// Without the latter if the clients don't know when.
	double rate = 0;
	std::vector<double> waits;
	/// Of all the time: how many cycles there were, and how often a client got the lock while
	/// another had it.
	std::int64_t cycles = 0;
	std::int64_t overlaps = 0;
};

/// The key for all.
inline const std::string shared_key = "order:42";

/// Connects the clients, has each do one cycle with a key of its own, and then all of them work at
/// the same time: first for a tenth of that time, then for all of it and until there are figures.
/// Throws what a client throws, and if there are no figures after a minute.
figures measure(const std::function<std::unique_ptr<client>()> &connect, const task &task,
				std::chrono::duration<double> time);
