// alarm.hpp: a limit of time for libraries that wait for the server without one.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "../connection.hpp"
#include "hang_up.hpp"
#include "thread.hpp"

namespace pglock::detail
{
/// Closes a connection if the time passes while the alarm lives, so that whoever waits for it ends.
/// The thread that does so takes no signals. Without a time, or a socket, there is none.
class alarm
{
  public:
	/// Throws `std::system_error` if there can't be a thread.
	alarm(int socket, const deadline &until)
	{
		if (!until || socket < 0)
			return;
		hang_up_ = hang_up_of(socket);

		signals_blocked blocked;

		thread_ = std::thread([this, time = *until] { wait(time); });
	}

	alarm(const alarm &) = delete;
	alarm &operator=(const alarm &) = delete;

	~alarm()
	{
		if (!thread_.joinable())
			return;
		{
			std::lock_guard guard(mutex_);
			is_over_ = true;
		}
		over_.notify_one();
		thread_.join();
	}

	/// Has the time passed?
	[[nodiscard]] bool
	has_rung() const
	{
		std::lock_guard guard(mutex_);

		return has_rung_;
	}

  private:
	void
	wait(std::chrono::steady_clock::time_point time)
	{
		std::unique_lock guard(mutex_);

		if (over_.wait_until(guard, time, [this] { return is_over_; }))
			return;
		has_rung_ = true;
		hang_up_();
	}

	std::function<void()> hang_up_;
	mutable std::mutex mutex_;
	std::condition_variable over_;
	bool is_over_ = false;
	bool has_rung_ = false;
	std::thread thread_;
};
} // namespace pglock::detail
