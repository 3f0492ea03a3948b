// handler.hpp: collects the failures that the handler is told of.
#pragma once

#include <mutex>
#include <string>
#include <vector>

#include <postgres_lock/error.hpp>

/// As long as it lives.
class failures
{
  public:
	failures()
	{
		pglock::set_release_failure_handler(
			[this](const pglock::key &key, const std::exception &failure) {
				std::lock_guard guard(mutex_);
				all_.push_back(key.text() + ": " + failure.what());
			});
	}

	~failures()
	{
		pglock::set_release_failure_handler({});
	}

	failures(const failures &) = delete;
	failures &operator=(const failures &) = delete;

	std::vector<std::string>
	all() const
	{
		std::lock_guard guard(mutex_);

		return all_;
	}

  private:
	mutable std::mutex mutex_;
	std::vector<std::string> all_;
};
