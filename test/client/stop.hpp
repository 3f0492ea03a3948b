// stop.hpp: waits for stop to be requested.
#pragma once

#include <chrono>
#include <future>
#include <stdexcept>
#include <stop_token>

#include <postgres_lock/boot_clock.hpp>

/// When stop is requested, now or within a minute.
[[nodiscard]] inline pglock::boot_clock::time_point
stop_of(const std::stop_token &stop)
{
	std::promise<pglock::boot_clock::time_point> requested;
	auto time = requested.get_future();
	std::stop_callback note(stop, [&] { requested.set_value(pglock::boot_clock::now()); });

	if (time.wait_for(std::chrono::minutes(1)) != std::future_status::ready)
		throw std::runtime_error("stop is not requested");
	return time.get();
}
