// soon.hpp: waits for something to become true.
#pragma once

#include <chrono>
#include <functional>
#include <thread>

/// Is it true, now or within a minute?
[[nodiscard]] inline bool
soon(const std::function<bool()> &condition)
{
	auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);

	while (!condition())
	{
		if (std::chrono::steady_clock::now() > end)
			return false;
		std::this_thread::sleep_for(std::chrono::milliseconds(2));
	}
	return true;
}
