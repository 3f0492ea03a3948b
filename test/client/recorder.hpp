// recorder.hpp: notes what an observer is told.
#pragma once

#include <exception>
#include <string>
#include <utility>
#include <vector>

#include <postgres_lock/observer.hpp>

/// Notes what it is told: what, keys, and what else there is.
class recorder : public pglock::observer
{
  public:
	void
	waiting(const pglock::lock_event &event) noexcept override
	{
		note("waiting", event);
	}

	void
	acquired(const pglock::lock_event &event) noexcept override
	{
		note("acquired", event);
	}

	void
	refused(const pglock::lock_event &event) noexcept override
	{
		note("refused", event);
	}

	void
	released(const pglock::lock_event &event) noexcept override
	{
		note("released", event);
	}

	void
	lost(const pglock::lock_event &event) noexcept override
	{
		note("lost", event);
	}

	void
	release_failed(const pglock::lock_event &event, const std::exception &failure) noexcept override
	{
		note("release_failed", event);
		all_.back().append(": ").append(failure.what());
	}

	/// What has been told since the last call.
	std::vector<std::string>
	told()
	{
		return std::exchange(all_, {});
	}

	/// Of the last one.
	pglock::lock_event::clock::time_point since;
	pglock::lock_event::clock::duration elapsed{};

  private:
	void
	note(const char *what, const pglock::lock_event &event)
	{
		std::string text = what;

		for (const pglock::key &each : event.keys)
			text.append(" ").append(each.text());
		if (event.slot > 0)
			text.append(" slot ").append(std::to_string(event.slot));
		if (event.shared)
			text.append(" shared");
		if (event.scope == pglock::scope::transaction)
			text.append(" in transaction");
		all_.push_back(std::move(text));
		since = event.since;
		elapsed = event.elapsed();
	}

	std::vector<std::string> all_;
};
