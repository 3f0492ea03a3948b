// keeper.hpp: renews leases in time, and says when they may be lost.
#pragma once

#include <version>

#if defined(__cpp_lib_jthread)
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <thread>
#include <utility>

#include "boot_clock.hpp"
#include "connection.hpp"
#include "detail/renewal_plan.hpp"
#include "detail/thread.hpp"
#include "error.hpp"
#include "lease.hpp"

namespace pglock
{
/// How a `keeper` works, for designated initializers.
struct keeper_options
{
	/// How long before a lease may be lost stop is requested. Not given: a tenth of its ttl.
	std::optional<std::chrono::milliseconds> margin = std::nullopt;

	/// Is told of renewals that failed, in a thread of the keeper: they are tried again. Its
	/// exceptions go nowhere.
	std::function<void(const lease &, const std::exception &)> renewal_failed = {};
};

namespace detail
{
/// A lease that a keeper renews.
struct kept_lease
{
	lease held;
	std::chrono::milliseconds margin;
	lease::clock::time_point next_renewal;
	std::stop_source stop{};
};

/// What a keeper and its threads know. Each thread waits for something to change, or for its time
/// to come.
class keeping
{
  public:
	using clock = lease::clock;

	std::shared_ptr<kept_lease>
	add(const lease &held, std::chrono::milliseconds margin)
	{
		auto added = std::make_shared<kept_lease>(kept_lease{held, margin, first_renewal_of(held)});
		std::lock_guard guard(mutex_);

		leases_.push_back(added);
		tell();
		return added;
	}

	void
	remove(const std::shared_ptr<kept_lease> &kept)
	{
		std::lock_guard guard(mutex_);

		leases_.remove(kept);
	}

	/// The lease that is to be renewed next, once it is time for that; null: stop was requested.
	[[nodiscard]] std::shared_ptr<kept_lease>
	next_renewal(const std::stop_token &stop)
	{
		std::unique_lock guard(mutex_);

		while (!stop.stop_requested())
		{
			unsigned seen = changes_;
			auto next = std::min_element(leases_.begin(), leases_.end(), [](auto &a, auto &b) {
				return a->next_renewal < b->next_renewal;
			});

			if (next != leases_.end() && (*next)->next_renewal <= clock::now())
				return *next;
			wait(guard, stop, seen,
				 next != leases_.end() ? (*next)->next_renewal : clock::time_point::max());
		}
		return nullptr;
	}

	/// After a renewal, which may have found that the lease is lost.
	void
	renew_at(kept_lease &kept, clock::time_point time)
	{
		std::lock_guard guard(mutex_);

		kept.next_renewal = time;
		tell();
	}

	/// Requests stop of those who hold leases that may soon be lost, until stop is requested
	/// itself.
	void
	watch(const std::stop_token &stop)
	{
		std::unique_lock guard(mutex_);

		while (!stop.stop_requested())
		{
			unsigned seen = changes_;
			clock::time_point next = clock::time_point::max();

			for (const std::shared_ptr<kept_lease> &each : std::list(leases_))
				if (!each->stop.stop_requested())
					next = std::min(next, look_at(each, guard));
			wait(guard, stop, seen, next);
		}
	}

  private:
	/// When to look again at that lease. Those who are told may call the keeper.
	clock::time_point
	look_at(const std::shared_ptr<kept_lease> &kept, std::unique_lock<std::mutex> &guard)
	{
		clock::time_point end = stop_time(kept->held, kept->margin);

		if (end > clock::now())
			return end;
		guard.unlock();
		kept->stop.request_stop();
		guard.lock();
		return clock::time_point::max();
	}

	void
	tell() noexcept
	{
		changes_++;
		changed_.notify_all();
	}

	/// Until that time, or until there is a change that has not been seen.
	void
	wait(std::unique_lock<std::mutex> &guard, const std::stop_token &stop, unsigned seen,
		 clock::time_point time)
	{
		clock::duration left = wait_until(time, clock::now());
		auto is_changed = [this, seen] { return changes_ != seen; };

		if (leases_.empty())
			changed_.wait(guard, stop, is_changed);
		else if (left > clock::duration::zero())
			changed_.wait_for(guard, stop, left, is_changed);
	}

	std::mutex mutex_;
	std::condition_variable_any changed_;
	std::list<std::shared_ptr<kept_lease>> leases_;
	unsigned changes_ = 0;
};
} // namespace detail

/// That a `keeper` renews a lease, as long as this lives. It moves, and does not copy.
class [[nodiscard]] kept
{
  public:
	/// For the library itself.
	[[nodiscard]] kept(std::shared_ptr<detail::keeping> by,
					   std::shared_ptr<detail::kept_lease> lease) noexcept
		: by_(std::move(by)), lease_(std::move(lease))
	{
	}

	kept(kept &&) noexcept = default;

	kept &
	operator=(kept &&other) noexcept
	{
		std::swap(by_, other.by_);
		std::swap(lease_, other.lease_);
		return *this;
	}

	~kept()
	{
		if (lease_)
			by_->remove(lease_);
	}

	/// Stop is requested before the lease can be lost: when a renewal has said that it is, and when
	/// none has succeeded until the margin before its deadline. Once requested it stays so. What is
	/// called then is called in a thread of the keeper, one after the other, and must not end the
	/// keeper.
	[[nodiscard]] std::stop_token
	stop_token() const
	{
		if (!lease_)
			throw std::logic_error("it has been moved from");
		return lease_->stop.get_token();
	}

  private:
	std::shared_ptr<detail::keeping> by_;
	std::shared_ptr<detail::kept_lease> lease_;
};

/// Renews any number of leases at a third of their ttl, over a connection of its own and in threads
/// of its own, and requests stop before one may be lost: if a renewal is refused or late, the
/// network is dead, or the process was paused for too long. A renewal that has no answer after a
/// quarter of the ttl is tried over another connection. May be used from any thread.
class keeper
{
  public:
	/// `connect` makes a connection: a `std::unique_ptr` or `std::shared_ptr` to one, also to a
	/// pooler's. It is called in a thread of the keeper, when there are leases to renew and
	/// whenever the connection was lost, and may throw. A server that does not answer must not hold
	/// it up for ever: set `connect_timeout`. Throws `std::system_error` if there can't be threads.
	explicit keeper(std::function<connection_ref()> connect, keeper_options options = {})
		: connect_(std::move(connect)), options_(std::move(options)),
		  keeping_(std::make_shared<detail::keeping>()),
		  watcher_(detail::start_thread(
			  [keeping = keeping_](const std::stop_token &stop) { keeping->watch(stop); })),
		  renewer_(detail::start_thread([this](const std::stop_token &stop) { renew(stop); }))
	{
	}

	keeper(const keeper &) = delete;
	keeper &operator=(const keeper &) = delete;

	/// Ends the renewals; waits for one that is under way. The leases stay until they are released,
	/// or expire. Those who are to stop are not told.
	~keeper() = default;

	/// Renews the lease from now on, until the result is destroyed.
	[[nodiscard]] kept
	keep(const lease &held)
	{
		return {keeping_,
				keeping_->add(held, options_.margin.value_or(detail::usual_margin(held)))};
	}

	/// The same for the lease of a guard, which has to outlive the result.
	[[nodiscard]] kept
	keep(const lease_guard &held)
	{
		return keep(held.lease());
	}

  private:
	void
	renew(const std::stop_token &stop)
	{
		std::optional<connection_ref> connection;

		while (std::shared_ptr<detail::kept_lease> next = keeping_->next_renewal(stop))
			keeping_->renew_at(*next,
							   lease::clock::now() +
								   detail::pause_after(renew(*next, connection), next->held));
	}

	[[nodiscard]] detail::renewal_outcome
	renew(detail::kept_lease &kept, std::optional<connection_ref> &connection)
	{
		using outcome = detail::renewal_outcome;

		try
		{
			if (!connection || connection->lost())
				connection.emplace(connect_());
			return kept.held.renew(*connection, detail::renewal_limit(kept.held)) ? outcome::renewed
																				  : outcome::lost;
		}
		catch (const std::exception &failure)
		{
			if (dynamic_cast<const connection_lost *>(&failure) != nullptr)
				connection.reset();
			tell_of(kept.held, failure);
		}
		catch (...)
		{
			tell_of(kept.held, std::runtime_error("what is no std::exception was thrown"));
		}
		return outcome::failed;
	}

	void
	tell_of(const lease &held, const std::exception &failure) const noexcept
	{
		try
		{
			if (options_.renewal_failed)
				options_.renewal_failed(held, failure);
		}
		catch (...)
		{
		}
	}

	std::function<connection_ref()> connect_;
	keeper_options options_;
	std::shared_ptr<detail::keeping> keeping_;
	std::jthread watcher_;
	std::jthread renewer_;
};
} // namespace pglock
#endif
