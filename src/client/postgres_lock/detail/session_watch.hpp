// session_watch.hpp: a thread that requests stop when a session has ended, whatever its owner does
// meanwhile.
#pragma once

#include <version>

#if defined(__cpp_lib_jthread)
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <memory>
#include <poll.h>
#include <stop_token>
#include <sys/socket.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <utility>

#include "session.hpp"
#include "thread.hpp"

namespace pglock::detail
{
/// A file descriptor, which programs that this one starts don't get.
class descriptor
{
  public:
	/// Throws `std::system_error` if there is none.
	explicit descriptor(int owned) : owned_(owned)
	{
		if (owned < 0)
			throw std::system_error(errno, std::generic_category(), "postgres_lock");
		fcntl(owned, F_SETFD, FD_CLOEXEC);
	}

	descriptor(descriptor &&other) noexcept : owned_(std::exchange(other.owned_, -1))
	{
	}

	descriptor &operator=(descriptor &&) = delete;

	~descriptor()
	{
		if (owned_ >= 0)
			::close(owned_);
	}

	[[nodiscard]] int
	get() const noexcept
	{
		return owned_;
	}

  private:
	int owned_;
};

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
		explicit state(int of) : socket(dup(of))
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
			std::array<pollfd, 2> files{{{socket.get(), gone, 0}, {pipe[0].get(), POLLIN, 0}}};

			while (poll(files.data(), files.size(), -1) < 0 && errno == EINTR)
				;
			if (files[1].revents == 0)
				stop.request_stop();
		}

		/// In a child process both would be done to the parent's.
		void
		end_wait() const noexcept
		{
			if (process == process_id())
				(void)!write(pipe[1].get(), "", 1);
		}

		/// The server must not wait for the duplicate.
		void
		session_ended() noexcept
		{
			if (process != process_id())
				return;
			::shutdown(socket.get(), SHUT_RDWR);
			stop.request_stop();
		}

		descriptor socket;
		std::array<descriptor, 2> pipe = make_pipe();
		std::stop_source stop;
		long process = process_id();
	};

	[[nodiscard]] static std::array<descriptor, 2>
	make_pipe()
	{
		std::array<int, 2> made{-1, -1};

		(void)!::pipe(made.data());
		return {descriptor(made[0]), descriptor(made[1])};
	}

	std::shared_ptr<state> state_;
	session_end end_;
};
} // namespace pglock::detail
#endif
