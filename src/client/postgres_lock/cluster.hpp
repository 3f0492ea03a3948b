// cluster.hpp: locks on many servers that know nothing of each other. Each key belongs to one of
// them, which the client picks by a rule that all programs share.
#pragma once

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <ranges>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>
#include <version>

#if defined(__cpp_lib_jthread)
#include <stop_token>
#endif

#include "connection.hpp"
#include "detail/cluster_server.hpp"
#include "detail/combined_stop.hpp"
#include "detail/keys.hpp"
#include "detail/lock_id.hpp"
#include "error.hpp"
#include "key.hpp"
#include "lock.hpp"
#include "options.hpp"

namespace pglock
{
/// Which of so many servers, counted from 0, has the locks, slots and leases of a key. The same as
/// `pglock.server_of()` in SQL: the lock id modulo the number of servers. The text of the key is
/// taken as UTF-8. Throws `std::invalid_argument` if there is no server, and `std::runtime_error`
/// if OpenSSL fails.
[[nodiscard]] inline std::size_t
server_of(const key &key, std::size_t servers)
{
	if (servers == 0)
		throw std::invalid_argument("there is no server");
	return static_cast<std::size_t>(static_cast<std::uint64_t>(detail::lock_id(key.text())) %
									servers);
}

namespace detail
{
/// What is taken of a range: of one that is handed over its elements themselves.
template <typename Range>
using element_of = std::conditional_t<std::is_lvalue_reference_v<Range> || std::ranges::view<Range>,
									  std::ranges::range_reference_t<Range>,
									  std::ranges::range_rvalue_reference_t<Range>>;

template <typename Range>
concept connection_range =
	std::ranges::input_range<Range> && std::convertible_to<element_of<Range>, connection_ref>;

template <typename T>
[[nodiscard]] bool
is_null([[maybe_unused]] const T &connection) noexcept
{
	if constexpr (requires { connection == nullptr; })
		return connection == nullptr;
	else
		return false;
}
} // namespace detail

/// Connections to many servers, one to each, in an order that is the same in all programs.
///
/// Locks, slots and leases of one key are taken over `connection_for()` it:
/// `pglock::slot_guard slot(servers.connection_for("exports"), "exports", 5);`. For locks, also of
/// several keys wherever they are, there is `cluster_guard`.
///
/// It never connects. What a server that is down is asked for throws `server_lost`, and keys of the
/// others are not concerned. Who catches that may open the connection anew: a `PGconn` by
/// `PQreset()`, and any other by `replace()`. Meanwhile the keys of that server can't be locked:
/// another server must not stand in for it, since others may still reach it.
///
/// It belongs to one thread at a time, as its connections do, which have to outlive it and the
/// locks; those that it is given by an owning pointer are kept.
class cluster
{
  public:
	/// Of these connections, of any type that locks can be taken on: `cluster{first, second}`.
	explicit cluster(std::initializer_list<connection_ref> connections)
		: cluster(std::vector<connection_ref>(connections))
	{
	}

	/// Of those in a range; of a range that is moved owning pointers are moved, too. A null pointer
	/// is a server that is not connected yet. Throws `std::invalid_argument` if there is no server.
	template <detail::connection_range Range> explicit cluster(Range &&connections)
	{
		for (auto &&each : connections)
		{
			connections_.emplace_back();
			if (!detail::is_null(each))
				replace(size() - 1, static_cast<detail::element_of<Range>>(each));
		}
		if (connections_.empty())
			throw std::invalid_argument("there is no server");
	}

	/// How many servers there are.
	[[nodiscard]] std::size_t
	size() const noexcept
	{
		return connections_.size();
	}

	/// The number of the server of a key, from 0.
	[[nodiscard]] std::size_t
	server_of(const key &key) const
	{
		return pglock::server_of(key, size());
	}

	/// The connection to the server of a key. Throws `server_lost` if there is none.
	[[nodiscard]] const connection_ref &
	connection_for(const key &key) const
	{
		return connection_to(server_of(key));
	}

	/// The connection to a server. Throws `server_lost` if there is none, and `std::out_of_range`.
	[[nodiscard]] const connection_ref &
	connection_to(std::size_t server) const
	{
		const auto &connection = connections_.at(server);

		if (!connection)
			detail::throw_server_lost(server, {}, "there is no connection");
		return *connection;
	}

	/// From now on this is the connection to a server. Locks that were taken over the one before
	/// stay with that. Throws `std::out_of_range`.
	void
	replace(std::size_t server, const connection_ref &connection)
	{
		connections_.at(server) = detail::cluster_server::number(connection, server);
	}

  private:
	std::vector<std::optional<connection_ref>> connections_;
};

namespace detail
{
/// The keys of each server that has any, in the order in which the servers are asked. Throws
/// `std::invalid_argument` if there is no key, or if all or none can't be promised: a lock at
/// transaction scope can't be given back.
[[nodiscard]] inline std::map<std::size_t, std::vector<key>>
by_server(const cluster &servers, std::vector<key> keys, const options &options)
{
	std::map<std::size_t, std::vector<key>> keys_of;

	keys = in_order(std::move(keys));

	bool several = servers.size() > 1 && keys.size() > 1;

	for (key &each : keys)
	{
		std::size_t server = servers.server_of(each);

		if (several && options.scope.value_or(servers.connection_to(server).default_scope()) ==
						   scope::transaction)
			throw std::invalid_argument("several keys of a cluster can't be locked at transaction "
										"scope");
		keys_of[server].push_back(std::move(each));
	}
	return keys_of;
}
} // namespace detail

/// Holds locks on the servers of a cluster as long as it lives: those of one key, of several in
/// braces, or of a range of them, all or none. On each server that has any of the keys it has a
/// `guard`, and it ends as these do.
///
/// The servers are asked one after the other, in their order, and each for all of its keys at once.
/// So callers that hold nothing else can't deadlock on each other. One timeout is for all; a server
/// that does not answer may take the `grace` of the options longer, each.
///
/// If a server refuses, the time passes or anything fails, the locks on those before are given
/// back, and nothing is held. Transactions that are open on their connections stay so. Several keys
/// need session scope: a lock at transaction scope could not be given back. If the connection to
/// one breaks while another is waited for, that counts, as far as `lost()` can tell. If one breaks
/// later, the locks on the others stay held: no server knows of the others.
///
/// It moves, and does not copy; what another one is assigned to first ends what it holds itself.
class [[nodiscard]] cluster_guard
{
  public:
	/// Takes the locks, and waits as long as the options say. Throws `timeout_error` if the time
	/// passes, `server_lost` if one of the servers can't be reached, what a `guard` throws, and
	/// `std::invalid_argument` for several keys at transaction scope.
	[[nodiscard]] cluster_guard(const cluster &servers, detail::keys_argument keys,
								const options &options = {})
		: servers_(servers.size())
	{
		(void)take(servers, std::move(keys), options, [](auto &&...how) {
			return std::make_optional<guard>(std::forward<decltype(how)>(how)...);
		});
	}

	/// The same, but nothing if the time passes; without a timeout among the options it does not
	/// wait.
	[[nodiscard]] static std::optional<cluster_guard>
	attempt(const cluster &servers, detail::keys_argument keys, options options = {})
	{
		cluster_guard wanted(servers.size());

		options.timeout = options.timeout.value_or(std::chrono::milliseconds::zero());
		if (!wanted.take(servers, std::move(keys), options, guard::attempt))
			return std::nullopt;
		return wanted;
	}

	cluster_guard(cluster_guard &&) noexcept = default;

	cluster_guard &
	operator=(cluster_guard &&other) noexcept
	{
		if (this != &other)
		{
#if defined(__cpp_lib_jthread)
			stop_ = std::move(other.stop_);
#endif
			servers_ = other.servers_;
			guards_ = std::move(other.guards_);
		}
		return *this;
	}

	/// Gives all locks back before the end. Harmless if they are not held any more. If that fails
	/// on some of the servers, it throws what `guard::unlock()` throws there first.
	void
	unlock()
	{
		std::exception_ptr failed;

		for (auto &[server, held] : guards_)
			try
			{
				held.unlock();
			}
			catch (...)
			{
				if (!failed)
					failed = std::current_exception();
			}
		if (failed)
			std::rethrow_exception(failed);
	}

	/// Are all of them held? See `lock::locked()`.
	[[nodiscard]] bool
	locked() const noexcept
	{
		return !guards_.empty() &&
			   std::ranges::all_of(guards_, [](const auto &each) { return each.second.locked(); });
	}

	/// Is one of the connections known to be dead, and what was held there lost? See
	/// `lock::lost()`.
	[[nodiscard]] bool
	lost() const noexcept
	{
		return std::ranges::any_of(guards_, [](const auto &each) { return each.second.lost(); });
	}

	/// The fencing token of one of the keys, see `lock::token()`. Those of different servers can't
	/// be compared; but a key always has the same server. Throws `std::invalid_argument` for a key
	/// whose server has none of the keys.
	[[nodiscard]] std::int64_t
	token(const key &key)
	{
		auto found = guards_.find(server_of(key, servers_));

		if (found == guards_.end())
			throw std::invalid_argument("lock \"" + key.text() + "\" is not one of the guard's");
		return found->second.token(key);
	}

#if defined(__cpp_lib_jthread)
	/// Stop is requested as soon as one of the sessions ends, on whichever server. Each has a
	/// thread that watches it. See `lock::stop_token()`, also for what it throws.
	[[nodiscard]] std::stop_token
	stop_token()
	{
		if (guards_.empty())
			throw std::logic_error("the guard has been moved from");
		if (!stop_)
		{
			auto stop = std::make_unique<detail::combined_stop>();

			for (auto &[server, held] : guards_)
				stop->add(held.stop_token());
			stop_ = std::move(stop);
		}
		return stop_->get_token();
	}
#endif

  private:
	/// Holds nothing yet.
	explicit cluster_guard(std::size_t servers) noexcept : servers_(servers)
	{
	}

	/// False: the time passed, and what is held so far is for the caller to end. If it throws,
	/// nothing is held.
	template <typename Take>
	[[nodiscard]] bool
	take(const cluster &servers, std::vector<key> keys, options options, Take take_each)
	{
		auto keys_of = detail::by_server(servers, std::move(keys), options);
		deadline until;

		if (options.timeout)
			until = std::chrono::steady_clock::now() + std::chrono::milliseconds(*options.timeout);
		try
		{
			for (auto &[server, wanted] : keys_of)
			{
				const connection_ref &connection = servers.connection_to(server);

				if (until)
					options.timeout = *until - std::chrono::steady_clock::now();

				std::optional<guard> held = take_each(connection, std::move(wanted), options);

				if (!held)
					return false;
				guards_.emplace(server, std::move(*held));
			}
			check_none_lost(servers);
		}
		catch (...)
		{
			// here and not by the error itself, which would roll back their transactions
			guards_.clear();
			throw;
		}
		return true;
	}

	/// Throws if a lock was lost while a later server was waited for.
	void
	check_none_lost(const cluster &servers) const
	{
		if (guards_.size() > 1)
			for (const auto &[server, held] : guards_)
				if (held.lost())
					detail::throw_server_lost(
						server, servers.connection_to(server).host(),
						"the connection was lost while another server was waited for");
	}

	/// how many there are in all
	std::size_t servers_;
	/// by their servers
	std::map<std::size_t, guard> guards_;
#if defined(__cpp_lib_jthread)
	std::unique_ptr<detail::combined_stop> stop_;
#endif
};

/// Holds locks on the servers of a cluster if they are to be had at once, or within the timeout of
/// the options; otherwise nothing. Keys, options and errors are those of `cluster_guard`.
[[nodiscard]] inline std::optional<cluster_guard>
try_guard(const cluster &servers, detail::keys_argument keys, const options &options = {})
{
	return cluster_guard::attempt(servers, std::move(keys), options);
}
} // namespace pglock
