// error.hpp: what can go wrong, and who hears of it when nobody can catch it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "key.hpp"

namespace pglock
{
/// Root of what this library throws, but for misuse that the standard library has a class for:
/// `std::invalid_argument`, and `std::system_error` with `resource_deadlock_would_occur`.
class error : public std::runtime_error
{
  public:
	/// `message` begins with the server's own words, if it has any of them.
	explicit error(const std::string &message, std::string_view sqlstate = {})
		: std::runtime_error(message)
	{
		length_ = sqlstate.copy(sqlstate_.data(), sqlstate_.size());
	}

	/// The five characters of the SQLSTATE; empty if the error is not the server's.
	[[nodiscard]] std::string_view
	sqlstate() const noexcept
	{
		return {sqlstate_.data(), length_};
	}

  private:
	std::array<char, 5> sqlstate_{};
	std::size_t length_ = 0;
};

/// The timeout passed before the lock was to be had (55P03). Nothing was taken. `lock_timeout` of
/// the session is no such timeout, but an `error` with the same SQLSTATE.
class timeout_error : public error
{
  public:
	using error::error;
};

/// Stop was requested while a lock was waited for, see `options::stop`. Nothing was taken.
class stopped_error : public error
{
  public:
	using error::error;
};

/// The server found that sessions wait for each other in a circle, and chose this one (40P01).
class deadlock_error : public error
{
  public:
	using error::error;
};

/// The server says that a lock which the object held was not: something released it behind the
/// object's back, so what was done meanwhile was not protected.
class not_held_error : public error
{
  public:
	using error::error;
};

/// An exclusive `lock` object that holds its lock was to take it again.
class acquire_error : public error
{
  public:
	using error::error;
};

/// A lease is not held any more: it has expired and another has taken it over, or it was released
/// or revoked. What was written under it since then must not be kept.
class lease_lost : public error
{
  public:
	using error::error;
};

/// The connection is gone, and with its session all locks. If the server did not answer in time, it
/// ends the session when it notices that the connection is closed.
class connection_lost : public error
{
  public:
	using error::error;
};

/// The same of a server of a `cluster`. The message says which, and where it is.
class server_lost : public connection_lost
{
  public:
	server_lost(std::size_t server, const std::string &message, std::string_view sqlstate = {})
		: connection_lost(message, sqlstate), server_(server)
	{
	}

	/// Its number, from 0: what `cluster::replace()` takes.
	[[nodiscard]] std::size_t
	server() const noexcept
	{
		return server_;
	}

  private:
	std::size_t server_;
};

/// The connection was lost while a critical section was to be committed. It may have been: look for
/// what it does before you do it again.
class outcome_unknown : public connection_lost
{
  public:
	using connection_lost::connection_lost;
};

/// A critical section is committed, but what one of its statements answered could not be kept, as
/// when there is no memory for it. Doing it again would do it twice.
class result_lost : public error
{
  public:
	using error::error;
};

/// Throws the class of error that the SQLSTATE stands for: `deadlock_error`, `connection_lost`
/// (class 08 but 08P01, and the end of the session: 57P01 to 57P05), or `error`.
[[noreturn]] inline void
throw_error(std::string_view sqlstate, const std::string &message)
{
	if (sqlstate == "40P01")
		throw deadlock_error(message, sqlstate);
	if (sqlstate.starts_with("57P") || (sqlstate.starts_with("08") && sqlstate != "08P01"))
		throw connection_lost(message, sqlstate);
	throw error(message, sqlstate);
}

/// Is told of locks that could not be released where no exception can be thrown: in destructors and
/// in `unlock()`. If the server has refused that, the connection is closed. Otherwise, unless it is
/// lost, the session still holds the lock, until an object takes or releases a lock on the
/// connection: that first releases what could not be. A lease ends by itself.
using release_failure_handler = std::function<void(const key &, const std::exception &)>;

namespace detail
{
// one of each in the program, though its shared objects hide their symbols
[[gnu::visibility("default")]] inline std::mutex handler_mutex;
[[gnu::visibility("default")]] inline std::shared_ptr<const release_failure_handler> handler;

/// Exceptions of the handler go nowhere.
inline void
report_release_failure(const key &key, const std::exception &failure) noexcept
{
	try
	{
		std::shared_ptr<const release_failure_handler> told;
		{
			std::lock_guard guard(handler_mutex);
			told = handler;
		}
		if (told)
			(*told)(key, failure);
		else
			std::fprintf(stderr, "postgres_lock: could not release \"%s\": %s\n",
						 key.text().c_str(), failure.what());
	}
	catch (...)
	{
	}
}
} // namespace detail

/// Sets the handler for the whole program, from any thread; it may be called in any thread that
/// releases locks. An empty one is the default: a line on standard error.
inline void
set_release_failure_handler(release_failure_handler handler)
{
	std::shared_ptr<const release_failure_handler> next;

	if (handler)
		next = std::make_shared<const release_failure_handler>(std::move(handler));
	std::lock_guard guard(detail::handler_mutex);
	detail::handler.swap(next);
}
} // namespace pglock
