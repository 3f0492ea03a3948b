// async_lease.hpp: leases whose operations don't wait in the thread.
#pragma once

#include <functional>
#include <libpq-fe.h>
#include <memory>
#include <optional>
#include <utility>

#include "../connection.hpp"
#include "../error.hpp"
#include "../key.hpp"
#include "../lease.hpp"
#include "../options.hpp"
#include "asio_library.hpp"
#include "async_connection.hpp"
#include "lease_protocol.hpp"
#include "lease_state.hpp"
#include "operation.hpp"
#include "protocol.hpp"
#include "request.hpp"

namespace pglock::detail
{
/// What a guard holds, and its connection.
struct async_held_lease : async_connection
{
	async_held_lease(asio::any_io_executor executor, PGconn *connection, lease of,
					 const lease_options &options)
		: async_connection(std::move(executor), connection, options.statements),
		  held(std::move(of), link, options)
	{
	}

	held_lease held;

  private:
	void
	release(bool by_error) noexcept override
	{
		held.end(by_error);
	}
};

/// Gives the lease of a guard back, once it has rolled back what is open after an error.
class lease_restitution : public uninterruptible
{
  public:
	lease_restitution(held_lease &held, bool after_error)
		: held_(held), step_(after_error ? step::roll_back : step::give_back)
	{
	}

	[[nodiscard]] std::optional<request>
	next()
	{
		if (!held_.is_held())
			return {};
		(void)held_.over().ready(held_.get().key());
		until_ = answer_limit(milliseconds::zero(), held_.get().state()->grace());
		if (step_ == step::roll_back && held_.rolls_back(true))
			return roll_back_statement;
		step_ = step::give_back;
		return held_.get().state()->release();
	}

	void
	succeeded(const reply &answer) noexcept
	{
		if (std::exchange(step_, step::give_back) == step::roll_back)
			return;
		is_released_ = answer == "t";
		held_.get().state()->mark_lost();
		held_.released();
	}

	[[nodiscard]] bool
	recovers(const error &) const noexcept
	{
		return false;
	}

	[[nodiscard]] deadline
	until() const noexcept
	{
		return until_;
	}

	/// Once there is no request any more: was it held?
	[[nodiscard]] bool
	result() const noexcept
	{
		return is_released_;
	}

  private:
	enum class step : unsigned char { roll_back, give_back };

	held_lease &held_;
	deadline until_;
	bool is_released_ = false;
	step step_;
};

[[nodiscard]] inline std::shared_ptr<lease_state>
new_lease(key key, const lease_options &options)
{
	return std::make_shared<lease_state>(std::move(key), 0, options);
}

/// For the value of a check.
inline void
throw_unless_checked(const lease_check &ended)
{
	if (!ended.result())
		throw_cancelled();
}

template <typename Guard, typename Token>
auto
start_lease_guard(const std::shared_ptr<async_held_lease> &of, const lease_options &options,
				  Token &&token)
{
	return start<lease_acquisition>(
		of, std::forward<Token>(token),
		[of](const lease_acquisition &ended) {
			if (!is_taken(ended))
				throw_lease_timeout(of->held.get().key());
			of->held.granted();
			return Guard(of);
		},
		of->held.get().state(), of->link, options, true);
}

/// A question about a lease, over a connection of any object.
template <typename Machine, typename Token, typename... Limit>
auto
start_lease_question(const std::shared_ptr<async_connection> &of, const lease &about, Token &&token,
					 Limit... limit)
{
	of->follow_session();
	return start<Machine>(of, std::forward<Token>(token), std::mem_fn(&Machine::result),
						  about.state(), of->link, limit...);
}

template <typename Token>
auto
start_lease_check(const std::shared_ptr<async_connection> &of, const lease &about, Token &&token)
{
	of->follow_session();
	return start<lease_check>(of, std::forward<Token>(token), &throw_unless_checked, about.state(),
							  of->link);
}

template <typename Token>
auto
start_lease_restitution(const std::shared_ptr<async_held_lease> &of, bool after_error,
						Token &&token,
						asio::cancellation_type asked = asio::cancellation_type::none)
{
	of->follow_session();
	return start_cancelled<lease_restitution>(of, asked, std::forward<Token>(token),
											  std::mem_fn(&lease_restitution::result), of->held,
											  after_error);
}

/// A connection for one operation on a lease.
[[nodiscard]] inline std::shared_ptr<async_connection>
connection_for(asio::any_io_executor executor, PGconn *connection, const lease &of)
{
	return std::make_shared<async_connection>(std::move(executor), connection,
											  of.state()->statements());
}
} // namespace pglock::detail
