// thread.hpp: threads of the library's own.
#pragma once

#include <csignal>
#include <pthread.h>
#include <thread>
#include <utility>
#include <version>

namespace pglock::detail
{
/// Blocks all signals of the thread as long as it lives: those that are started meanwhile take
/// none.
class signals_blocked
{
  public:
	signals_blocked() noexcept
	{
		sigset_t all;

		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &before_);
	}

	signals_blocked(const signals_blocked &) = delete;
	signals_blocked &operator=(const signals_blocked &) = delete;

	~signals_blocked()
	{
		pthread_sigmask(SIG_SETMASK, &before_, nullptr);
	}

  private:
	sigset_t before_;
};

#if defined(__cpp_lib_jthread)
/// A thread that takes no signals. Throws `std::system_error` if there can't be one.
template <typename Work>
[[nodiscard]] std::jthread
start_thread(Work work)
{
	signals_blocked blocked;

	return std::jthread(std::move(work));
}
#endif
} // namespace pglock::detail
