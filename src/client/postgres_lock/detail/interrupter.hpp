// interrupter.hpp: ends a command that is waited for when stop is requested.
#pragma once

#include <version>

#if defined(__cpp_lib_jthread)
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <stop_token>
#include <system_error>
#include <thread>
#include <utility>

#include "../connection.hpp"
#include "thread.hpp"

namespace pglock::detail
{
/// While it lives, a request to stop has the server cancel the command that is under way: again and
/// again, since a request that arrives before its command does nothing. Its end waits for a request
/// that is under way, so that this does not meet a later command. If all that takes too long, the
/// connection is closed.
class interrupter
{
  public:
	/// Throws `std::system_error` if there can't be a thread.
	interrupter(std::stop_token stop, command_control control, std::chrono::milliseconds grace)
		: control_(std::move(control)), grace_(grace),
		  thread_(start_thread([this, stop = std::move(stop)] { work(stop); }))
	{
	}

	interrupter(const interrupter &) = delete;
	interrupter &operator=(const interrupter &) = delete;

	~interrupter()
	{
		{
			std::lock_guard guard(state_->mutex);
			state_->is_over = true;
		}
		state_->changed.notify_all();
	}

  private:
	using clock = std::chrono::steady_clock;

	/// Also known to whoever sends a request, and may do so for as long as a network takes to fail.
	struct state
	{
		std::mutex mutex;
		std::condition_variable_any changed;
		bool is_over = false;
		bool is_sending = false;
	};

	void
	work(const std::stop_token &stop)
	{
		std::unique_lock guard(state_->mutex);

		state_->changed.wait(guard, stop, [this] { return state_->is_over; });

		auto give_up_at = clock::now() + grace_;

		for (std::chrono::milliseconds pause(20); !is_done(); pause = std::min(2 * pause, longest))
		{
			if (clock::now() >= give_up_at)
				return control_.hang_up();
			if (!state_->is_sending && !state_->is_over)
				send();
			state_->changed.wait_for(guard, std::min<clock::duration>(pause, grace_),
									 [this] { return is_done(); });
		}
	}

	[[nodiscard]] bool
	is_done() const noexcept
	{
		return state_->is_over && !state_->is_sending;
	}

	/// In a thread, for which nobody waits for ever.
	void
	send()
	{
		signals_blocked blocked;

		try
		{
			std::thread sender([state = state_, cancel = control_.cancel] {
				cancel();
				{
					std::lock_guard guard(state->mutex);
					state->is_sending = false;
				}
				state->changed.notify_all();
			});

			state_->is_sending = true;
			sender.detach();
		}
		catch (const std::system_error &)
		{
			// it is tried again
		}
	}

	static constexpr std::chrono::milliseconds longest{1000};

	command_control control_;
	std::chrono::milliseconds grace_;
	std::shared_ptr<state> state_ = std::make_shared<state>();
	std::jthread thread_;
};
} // namespace pglock::detail
#endif
