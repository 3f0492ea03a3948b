// options.hpp: how a lock or a lease is taken.
#pragma once

#include <chrono>
#include <optional>
#include <ratio>
#include <string_view>
#include <version>

#if defined(__cpp_lib_jthread)
#include <stop_token>
#endif

namespace pglock
{
/// How long something may take: a duration of any unit, in whole milliseconds. It is rounded up,
/// and kept between 0 and the server's longest timeout, 2147483647 ms (24 days): what is longer
/// means that.
class time_limit
{
  public:
	template <typename Rep, typename Period>
	constexpr time_limit(const std::chrono::duration<Rep, Period> &time) noexcept
		: time_(kept_within(time))
	{
	}

	constexpr operator std::chrono::milliseconds() const noexcept
	{
		return time_;
	}

  private:
	static constexpr std::chrono::milliseconds longest{2147483647};

	/// Of a type that no duration overflows. What is no number is 0.
	[[nodiscard]] static constexpr std::chrono::milliseconds
	kept_within(std::chrono::duration<long double, std::milli> time) noexcept
	{
		if (!(time > time.zero()))
			return std::chrono::milliseconds::zero();
		return time < longest ? std::chrono::ceil<std::chrono::milliseconds>(time) : longest;
	}

	std::chrono::milliseconds time_;
};

/// How long a lock lives once it is taken.
enum class scope : unsigned char {
	/// Until it is released, or the session ends. COMMIT and ROLLBACK don't touch it.
	session,
	/// Until the transaction ends, or is rolled back to a savepoint from before. It can't be
	/// released by hand, and needs a transaction block.
	transaction,
};

/// Whether the statements that take and release locks are prepared in the server. Either way they
/// take one round trip; a prepared one is parsed once per connection.
enum class statements : unsigned char {
	/// Outside transaction blocks only. There a statement that a pooler has lost, or has from
	/// somebody else, is noticed and done without; in a block that would cost the transaction.
	automatic,
	/// In transaction blocks, too. For connections with no transaction pooler between.
	prepared,
	/// Never.
	unprepared,
};

class observer;

/// How a lock is taken, for designated initializers:
/// `pglock::options{.shared = true, .timeout = 5s}`.
struct options
{
	/// Share the lock with others who share it; otherwise it is held exclusively.
	bool shared = false;

	/// How long to wait. 0 and less: not at all. Not given: for ever.
	std::optional<time_limit> timeout = std::nullopt;

	/// Not given: what suits the connection. That is the session, but for transaction objects.
	std::optional<pglock::scope> scope = std::nullopt;

	/// When an exception ends the life of a guard, roll back the transaction that is open on its
	/// connection, and then release. That is the whole transaction, also if it was begun before the
	/// guard was made. Otherwise the transaction is left alone.
	bool rollback_on_error = true;

	/// See there.
	pglock::statements statements = pglock::statements::automatic;

	/// How much longer than the timeout to wait for the server's answer. A server, or a proxy
	/// before it, that has not answered by then is given up: the connection is shut down, and
	/// `connection_lost` is thrown. Other calls for a lock that was taken with a timeout, such as
	/// its release, wait that long. Without a timeout all wait for ever.
	time_limit grace = std::chrono::seconds(5);

#if defined(__cpp_lib_jthread)
	/// A request to stop ends a wait, which throws `stopped_error`: nothing is held, the connection
	/// can be used, and a transaction that is open still is. (A lock at transaction scope that was
	/// free is taken all the same if the request comes too late.) If the server does not react
	/// within `grace`, the connection is shut down. Each wait starts a thread, and over libpq
	/// needs a file. Not for asynchronous operations, which are cancelled by Asio's own means.
	std::stop_token stop = {};
#endif

	/// How often `async_watch()` and `with_lock()` keep the session alive while they watch it, see
	/// `keep_alive()`. Not given: never.
	std::optional<time_limit> keep_alive = std::nullopt;

	/// Is told what becomes of the lock, see there. Null: nobody is.
	pglock::observer *observer = nullptr;
};

/// How a lease is taken, for designated initializers: `{.ttl = 15s, .holder = "node a"}`.
struct lease_options
{
	/// How long it lasts unless it is renewed: from 1 ms to 1 year.
	std::chrono::milliseconds ttl = std::chrono::seconds(30);

	/// How long to wait. 0 and less: not at all. Not given: for ever.
	std::optional<time_limit> timeout = std::nullopt;

	/// Whom the view `pglock.leases` shows as its holder; empty: nobody. The text is somebody
	/// else's, who keeps it until the lease is asked for. (GCC 12 spoils members with a destructor
	/// where options in braces are part of a `co_await`.)
	std::string_view holder = {};

	/// So many may hold a lease of the key at a time.
	int slots = 1;

	/// For a guard: see `options::rollback_on_error`.
	bool rollback_on_error = true;

	/// See `options::statements`.
	pglock::statements statements = pglock::statements::automatic;

	/// How much longer than the timeout to wait for the server's answer, and how long for that to a
	/// renewal or release; then the connection is shut down, and `connection_lost` is thrown.
	time_limit grace = std::chrono::seconds(5);

#if defined(__cpp_lib_jthread)
	/// See `options::stop`.
	std::stop_token stop = {};
#endif
};
} // namespace pglock
