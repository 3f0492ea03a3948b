// observer.hpp: what happens to locks, for logs and metrics.
#pragma once

#include <chrono>
#include <exception>
#include <span>

#include "key.hpp"
#include "options.hpp"

namespace pglock
{
/// The lock that an observer is told of. Valid during the call.
struct lock_event
{
	using clock = std::chrono::steady_clock;

	/// Of several that are taken together all, in their order as text.
	std::span<const key> keys;
	/// The number of the slot; 0: it is a lock, or none has been taken yet.
	int slot;
	bool shared;
	pglock::scope scope;
	/// See each function of the observer.
	clock::time_point since;

	/// How long since then.
	[[nodiscard]] clock::duration
	elapsed() const noexcept
	{
		return clock::now() - since;
	}
};

/// Is told what happens to the locks and slots whose `options::observer` it is, guards and mutexes
/// included: override what you want to hear of. It has to outlive them.
///
/// It is called in the thread that the lock's function, or its end, was called in; for asynchronous
/// operations in one that runs their executor. That thread waits for it, and so does whoever waits
/// for the lock: it should be quick. It must not throw, which would end the program, and must use
/// neither the lock nor its connection. One that observes the locks of several threads is called in
/// all of them at a time.
///
/// A shared lock that is taken more than once is told of each time. Leases and critical sections
/// have no observer.
class observer
{
  public:
	virtual ~observer() = default;

	/// The server is about to be asked, and may let it wait. `since`: now. Either `acquired` or
	/// `refused` follows.
	virtual void
	waiting(const lock_event &) noexcept
	{
	}

	/// It is held. `since`: when `waiting` was told.
	virtual void
	acquired(const lock_event &) noexcept
	{
	}

	/// It was not taken: the time has passed, it was cancelled, or the call throws. `since`: when
	/// `waiting` was told.
	virtual void
	refused(const lock_event &) noexcept
	{
	}

	/// It was given back. `since`: when it was acquired, if several times for the first. Not told
	/// at transaction scope, where COMMIT releases.
	virtual void
	released(const lock_event &) noexcept
	{
	}

	/// A call, or the object's end, finds that it is held no more, how often it was taken: with its
	/// session, or since something released it behind the object's back. `since`: when it was
	/// acquired.
	virtual void
	lost(const lock_event &) noexcept
	{
	}

	/// It could not be released where that can't be thrown. The handler hears of it as well: see
	/// `set_release_failure_handler`. `since`: when it was acquired.
	virtual void
	release_failed(const lock_event &, const std::exception &) noexcept
	{
	}
};
} // namespace pglock
