// options.hpp: how a lock is taken.
#pragma once

#include <chrono>
#include <optional>

namespace pglock
{
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

/// How a lock is taken, for designated initializers:
/// `pglock::options{.shared = true, .timeout = 5s}`.
struct options
{
	/// Share the lock with others who share it; otherwise it is held exclusively.
	bool shared = false;

	/// How long to wait, at most 2147483647 ms. 0 and less: not at all. Not given: for ever.
	std::optional<std::chrono::milliseconds> timeout = std::nullopt;

	/// Not given: what suits the connection. That is the session, but for transaction objects.
	std::optional<pglock::scope> scope = std::nullopt;

	/// When an exception ends the life of a guard, roll back the transaction that is open on its
	/// connection, and then release. Otherwise the transaction is left alone.
	bool rollback_on_error = true;

	/// See there.
	pglock::statements statements = pglock::statements::automatic;
};
} // namespace pglock
