// lock.hpp: locks by name. `lock` is the classical object, `guard` releases by itself, and `mutex`
// and `shared_mutex` work with what the standard library has for mutexes.
//
// They exclude sessions, not threads: a connection, and all locks on it, belong to one thread at a
// time. Connections have to outlive the locks on them.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>
#include <version>

#if defined(__cpp_lib_jthread)
#include <stop_token>
#endif

#include "connection.hpp"
#include "detail/blocking_hold.hpp"
#include "detail/guarded.hpp"
#include "detail/keys.hpp"
#include "detail/refusal.hpp"
#include "detail/request.hpp"
#include "detail/statements.hpp"
#include "detail/timed.hpp"
#include "error.hpp"
#include "key.hpp"
#include "options.hpp"

namespace pglock
{
/// A lock that is taken and released by hand. It neither copies nor moves.
///
/// In a process that is forked while it holds the lock, it holds nothing, sends nothing when it
/// ends, and can't be used: the lock is the parent's.
///
/// All functions that ask the server may throw `error`: `connection_lost`, `deadlock_error`, or
/// the plain one for what else the server says (57014 after a cancel or `statement_timeout`, 55P03
/// after `lock_timeout`, 25P02 in a transaction that has failed, ...). After an acquire that threw,
/// nothing new is held.
class lock
{
  public:
	/// Takes nothing yet. Throws `std::bad_alloc` only.
	lock(connection_ref connection, pglock::key key, const options &options = {})
		: hold_(connection, {std::move(key)}, options), timeout_(options.timeout)
	{
	}

	/// Releases what is held, as the last resort: failures go to the handler, see
	/// `set_release_failure_handler`.
	~lock() = default;

	/// Takes the lock, and waits as long as the options say. True: it is held. False: the timeout
	/// passed. An exclusive lock that is held already throws `acquire_error`; a shared one is taken
	/// once more, and needs a release more. Where another object holds it on this connection, and
	/// one of them is exclusive, it throws `std::system_error` (`resource_deadlock_would_occur`).
	[[nodiscard]] bool
	acquire()
	{
		return take(timeout_);
	}

	/// The same, but waits that long, and not at all for 0 and less.
	[[nodiscard]] bool
	acquire(time_limit timeout)
	{
		return take(timeout);
	}

	/// The same, but does not wait.
	[[nodiscard]] bool
	try_acquire()
	{
		return take(std::chrono::milliseconds::zero());
	}

	/// Gives one level back. True: it was held, and is given back. False: nothing was held, or it
	/// is held at transaction scope; then the object forgets it, and the transaction keeps it.
	/// Throws `not_held_error` if the server does not know of the hold; after other errors than
	/// this and `connection_lost` the lock is still held. Release after COMMIT: before, the next
	/// holder does not see what you wrote.
	bool
	release()
	{
		return hold_.give_back();
	}

	/// For a `catch`: rolls back the transaction that is open on the connection, if
	/// `rollback_on_error` says so, and releases all levels. True: there were some at session
	/// scope. Throws as `release()` does.
	bool
	handle_error()
	{
		return hold_.handle_error();
	}

	/// Does this object hold the lock, as far as that can be known without a round trip? Not if the
	/// connection is `lost()`, and not at transaction scope when the transaction has ended (but
	/// libpqxx does not tell of that while another transaction object is there, nor libpq of a
	/// rollback to a savepoint). What somebody did behind its back it does not know.
	[[nodiscard]] bool
	locked() const noexcept
	{
		return hold_.depth() > 0;
	}

	/// How many times this object holds the lock; likewise.
	[[nodiscard]] unsigned
	depth() const noexcept
	{
		return hold_.depth();
	}

	/// The fencing token of the session's exclusive hold, from the server: greater than that of
	/// every earlier holder, and the same until the hold ends. Throws `error` with 55000 if there
	/// is no exclusive hold.
	[[nodiscard]] std::int64_t
	token()
	{
		return hold_.number(detail::token_statement, key());
	}

	[[nodiscard]] const pglock::key &
	key() const noexcept
	{
		return hold_.keys().front();
	}

	/// The advisory lock id of the key, from the server, which knows its encoding.
	[[nodiscard]] std::int64_t
	lock_id()
	{
		return hold_.number(detail::lock_id_statement, key());
	}

	/// Is the connection known to be dead, and the lock with it? Looks at the socket, and sends
	/// nothing. False is no promise: the network may have failed without a word.
	[[nodiscard]] bool
	lost() const noexcept
	{
		return hold_.lost();
	}

#if defined(__cpp_lib_jthread)
	/// Stop is requested of it when the session ends, and the lock with it, also while this thread
	/// does something else: by a thread of the library, which waits at the socket from the first
	/// call on, as long as this object lives. What is registered as a `std::stop_callback` runs in
	/// that thread, or in the one that closes or resets the connection. What `lost()` can't see it
	/// can't see either, nor does it hear of the end of a transaction. Throws `std::system_error`
	/// if there can't be a thread, or the three files that it needs, and `std::logic_error` if the
	/// connection has no socket, see `connection_traits`.
	[[nodiscard]] std::stop_token
	stop_token()
	{
		return hold_.stop_token();
	}
#endif

  private:
	[[nodiscard]] bool
	take(const detail::wait_time &time)
	{
		hold_.expect(time);
		if (!hold_.shared() && hold_.checked_depth() > 0)
			detail::throw_held_by_this(key());
		return hold_.take(time);
	}

	detail::blocking_hold hold_;
	detail::wait_time timeout_;
};

/// Holds a lock, or several, as long as it lives. It moves, and does not copy; what another one is
/// assigned to first ends what it holds itself.
///
/// At its end it gives them back. If an exception ends it, it first rolls back the transaction that
/// is open on the connection, so that the next holder does not meet half of its work, and then
/// releases (see `options::rollback_on_error`); a transaction that an error of the server has ended
/// is always rolled back, unless that option is off. It does not matter who began the transaction:
/// what was done in it before the guard was made is rolled back, too. What fails then goes to the
/// handler, see `set_release_failure_handler`. As for forks, see `lock`.
///
/// At transaction scope the lock is not given back but ends with the transaction.
class [[nodiscard]] guard
{
  public:
	/// Takes the locks and waits as long as the options say: of one key, of several in braces, or
	/// of a range of them. Throws `timeout_error` if the time passes, and what `lock::acquire()`
	/// throws.
	///
	/// Several are taken all or none, in one order everywhere, so that callers that hold nothing
	/// else can't deadlock on each other. A key that is there twice counts once; one timeout for
	/// all. Unlike the wait for one lock outside a transaction block, this wait keeps a snapshot.
	/// Throws `std::invalid_argument` if there are no keys.
	[[nodiscard]] guard(connection_ref connection, detail::keys_argument keys,
						const options &options = {})
		: guard(std::make_unique<detail::blocking_hold>(connection, std::move(keys), options))
	{
		if (!held().take(options.timeout))
			held().throw_timeout();
	}

	/// The same, but nothing if the time passes; without a timeout among the options it does not
	/// wait.
	[[nodiscard]] static std::optional<guard>
	attempt(connection_ref connection, detail::keys_argument keys, const options &options = {})
	{
		guard wanted(std::make_unique<detail::blocking_hold>(connection, std::move(keys), options));

		if (!wanted.held().take(options.timeout.value_or(std::chrono::milliseconds::zero())))
			return std::nullopt;
		return wanted;
	}

	/// Gives the locks back before the end. Harmless if they are not held any more. Throws as
	/// `lock::release()` does.
	void
	unlock()
	{
		if (hold_.get())
			hold_.get()->give_back();
	}

	/// See `lock::locked()`.
	[[nodiscard]] bool
	locked() const noexcept
	{
		return hold_.get() && hold_.get()->depth() > 0;
	}

	/// See `lock::token()`; with several keys, that of the first in their order as text.
	[[nodiscard]] std::int64_t
	token()
	{
		return token(held().keys().front());
	}

	/// The fencing token of one of the keys.
	[[nodiscard]] std::int64_t
	token(const key &key)
	{
		return held().number(detail::token_statement, key);
	}

	/// See `lock::lost()`.
	[[nodiscard]] bool
	lost() const noexcept
	{
		return hold_.get() && hold_.get()->lost();
	}

#if defined(__cpp_lib_jthread)
	/// See `lock::stop_token()`.
	[[nodiscard]] std::stop_token
	stop_token()
	{
		return held().stop_token();
	}
#endif

  protected:
	/// Takes nothing yet.
	explicit guard(std::unique_ptr<detail::blocking_hold> wanted) : hold_(std::move(wanted))
	{
	}

	[[nodiscard]] detail::blocking_hold &
	held() const
	{
		if (!hold_.get())
			throw std::logic_error("the guard has been moved from");
		return *hold_.get();
	}

  private:
	detail::guarded<std::unique_ptr<detail::blocking_hold>> hold_;
};

/// Holds locks if they are to be had at once, or within the timeout of the options; otherwise
/// nothing: `if (auto guard = pglock::try_guard(connection, "key")) ...`. Keys, options and errors
/// are those of `guard`.
[[nodiscard]] inline std::optional<guard>
try_guard(connection_ref connection, detail::keys_argument keys, const options &options = {})
{
	return guard::attempt(std::move(connection), std::move(keys), options);
}

/// Holds one of the slots of a key as long as it lives: of so many sessions or transactions at a
/// time. Otherwise as `guard`. A connection can hold several slots of a key, each by a guard of its
/// own; if it holds all of them, to wait for another is an `error` with 55000.
class [[nodiscard]] slot_guard : guard
{
  public:
	/// Takes a slot, of `slots`, and waits as long as the options say. Throws as a `guard` does,
	/// and `std::invalid_argument` for shared options.
	[[nodiscard]] slot_guard(connection_ref connection, key key, int slots,
							 const options &options = {})
		: guard(std::make_unique<detail::blocking_hold>(connection,
														std::vector<pglock::key>{std::move(key)},
														options, slots))
	{
		if (!held().take(options.timeout))
			held().throw_timeout();
	}

	/// The number of the slot, from 1 to the number of slots.
	[[nodiscard]] int
	slot() const
	{
		return held().slot();
	}

	using guard::locked;
	using guard::lost;
#if defined(__cpp_lib_jthread)
	using guard::stop_token;
#endif
	using guard::unlock;
};

/// A mutex with a name, shared by all sessions of a database. Meets the standard's requirements
/// BasicLockable, Lockable and TimedLockable, so `std::lock_guard`, `std::unique_lock` and
/// `std::scoped_lock(a, b)` work.
///
/// A second lock of the same mutex, or of the same key on the same connection by another object,
/// throws `std::system_error` with `resource_deadlock_would_occur`: the server would grant it, and
/// nobody would be excluded. What else the server says is thrown as `error`. If a function throws,
/// nothing new is held.
///
/// The standard's guards don't roll back transactions. `unlock()` rolls back only one that an
/// error has ended (see `options::rollback_on_error`), since the release could not be sent
/// otherwise.
class mutex
{
  public:
	/// Takes nothing yet. Throws `std::invalid_argument` for shared options.
	mutex(connection_ref connection, key key, const options &options = {})
		: hold_(connection, {std::move(key)}, options), timeout_(options.timeout)
	{
		if (options.shared)
			throw std::invalid_argument("a mutex is not shared: that is a shared_mutex");
	}

	/// Waits for the lock; if the options have a timeout, throws `timeout_error` when it passes.
	void
	lock()
	{
		if (!checked(timeout_).take(timeout_))
			hold_.throw_timeout();
	}

	/// Does not wait. False: somebody else holds it.
	[[nodiscard]] bool
	try_lock()
	{
		constexpr time_limit none = std::chrono::milliseconds::zero();

		return checked(none).take(none);
	}

	/// Waits for that long. False: the time passed.
	template <typename Rep, typename Period>
	[[nodiscard]] bool
	try_lock_for(const std::chrono::duration<Rep, Period> &time)
	{
		return detail::take_for(checked(time), time);
	}

	/// Waits until that time of any clock. False: it passed.
	template <typename Clock, typename Duration>
	[[nodiscard]] bool
	try_lock_until(const std::chrono::time_point<Clock, Duration> &time)
	{
		return detail::take_until(checked(std::chrono::milliseconds::zero()), time);
	}

	/// Gives the lock back. What fails goes to the handler, see `set_release_failure_handler`.
	void
	unlock() noexcept
	{
		hold_.end(false);
	}

	/// See `lock::lost()`.
	[[nodiscard]] bool
	lost() const noexcept
	{
		return hold_.lost();
	}

#if defined(__cpp_lib_jthread)
	/// See `lock::stop_token()`.
	[[nodiscard]] std::stop_token
	stop_token()
	{
		return hold_.stop_token();
	}
#endif

  private:
	[[nodiscard]] detail::blocking_hold &
	checked(const detail::wait_time &time)
	{
		hold_.expect(time);
		if (hold_.checked_depth() > 0)
			detail::throw_would_deadlock(hold_.keys().front());
		return hold_;
	}

	detail::blocking_hold hold_;
	detail::wait_time timeout_;
};

/// A `mutex` that many sessions can hold shared. Meets SharedLockable and SharedTimedLockable, too,
/// so `std::shared_lock` works. Shared locks count: each needs its unlock.
class shared_mutex : public mutex
{
  public:
	/// See `mutex`. Options are the same for both modes.
	shared_mutex(connection_ref connection, const key &key, const options &options = {})
		: mutex(connection, key, options), shared_(connection, {key}, with_shared(options)),
		  timeout_(options.timeout)
	{
	}

	/// As `lock()`, shared.
	void
	lock_shared()
	{
		if (!shared_.take(timeout_))
			shared_.throw_timeout();
	}

	/// As `try_lock()`, shared.
	[[nodiscard]] bool
	try_lock_shared()
	{
		return shared_.take(std::chrono::milliseconds::zero());
	}

	/// As `try_lock_for()`, shared.
	template <typename Rep, typename Period>
	[[nodiscard]] bool
	try_lock_shared_for(const std::chrono::duration<Rep, Period> &time)
	{
		return detail::take_for(shared_, time);
	}

	/// As `try_lock_until()`, shared.
	template <typename Clock, typename Duration>
	[[nodiscard]] bool
	try_lock_shared_until(const std::chrono::time_point<Clock, Duration> &time)
	{
		return detail::take_until(shared_, time);
	}

	/// As `unlock()`, one shared level.
	void
	unlock_shared() noexcept
	{
		shared_.end_level();
	}

  private:
	[[nodiscard]] static options
	with_shared(options options) noexcept
	{
		options.shared = true;
		return options;
	}

	detail::blocking_hold shared_;
	detail::wait_time timeout_;
};
} // namespace pglock
