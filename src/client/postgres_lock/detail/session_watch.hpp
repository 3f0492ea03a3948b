// session_watch.hpp: a thread that requests stop when a session has ended, whatever its owner does
// meanwhile.
#pragma once

#include <version>

#if defined(__cpp_lib_jthread)
#include <array>
#include <cerrno>
#include <memory>
#include <poll.h>
#include <stop_token>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <utility>

#include "file.hpp"
#include "session.hpp"
#include "thread.hpp"

namespace pglock::detail
{
/// Requests stop when the other side of a session's socket has gone, or its owner has closed it. It
/// waits at a duplicate, since the owner's may be closed at any time, and reads nothing.
///
/// Nobody waits for the thread to end, least of all a child process, which does not have it.
class session_watch
{
  public:
	/// Throws `std::system_error` if there can't be a thread, or the files that it needs.
	session_watch(std::shared_ptr<session> of, int socket)
		: state_(std::make_shared<state>(socket)),
		  end_(std::move(of), [state = state_] { state->session_ended(); })
	{
		signals_blocked blocked;

		std::thread([state = state_] { state->wait(); }).detach();
	}

	session_watch(const session_watch &) = delete;
	session_watch &operator=(const session_watch &) = delete;

	~session_watch()
	{
		state_->end_wait();
	}

	[[nodiscard]] std::stop_token
	stop_token() const noexcept
	{
		return state_->stop.get_token();
	}

  private:
	struct state
	{
		explicit state(int of) : socket(duplicate_of(of))
		{
		}

		void
		wait()
		{
#if defined(POLLRDHUP)
			constexpr short gone = POLLRDHUP;
#else
			constexpr short gone = 0; // POLLHUP is told unasked
#endif
			std::array<pollfd, 2> files{{{socket.get(), gone, 0}, {pipe.first.get(), POLLIN, 0}}};

			while (poll(files.data(), files.size(), -1) < 0 && errno == EINTR)
				;
			if (files[1].revents == 0)
				stop.request_stop();
		}

		/// The thread closes the files. A child process has none, and must not wake the parent's.
		void
		end_wait() noexcept
		{
			if (process == process_id())
				(void)!write(pipe.second.get(), "", 1);
			else
			{
				socket = {};
				pipe = {};
			}
		}

		/// The server must not wait for the duplicate. A child process would end the parent's.
		void
		session_ended() noexcept
		{
			if (process != process_id())
				return;
			::shutdown(socket.get(), SHUT_RDWR);
			stop.request_stop();
		}

		file socket;
		std::pair<file, file> pipe = make_pipe();
		std::stop_source stop;
		long process = process_id();
	};

	std::shared_ptr<state> state_;
	session_end end_;
};
} // namespace pglock::detail
#endif
