// cancellable_wait.hpp: takes what may have to be waited for, as a plain state machine that can be
// cancelled at any step. What is wanted is a hold, or a lease.
#pragma once

#include <chrono>
#include <optional>

#include "../connection.hpp"
#include "../error.hpp"
#include "request.hpp"
#include "statements.hpp"

namespace pglock::detail
{
inline constexpr statement savepoint_statement{"SAVEPOINT pglock_wait"};
inline constexpr statement roll_back_to_savepoint_statement{"ROLLBACK TO SAVEPOINT pglock_wait"};
inline constexpr statement drop_savepoint_statement{"RELEASE SAVEPOINT pglock_wait"};

/// What came of a wait.
enum class wait_outcome : unsigned char { refused, taken, cancelled, disturbed };

/// Once it is cancelled nothing new is held. `Wanted` knows the requests that take and release it,
/// and what the answer means; the wait keeps a reference to it.
///
/// Cancelling a wait makes the server raise an error, and an error costs the transaction. So in a
/// transaction block it tries first, and waits behind a savepoint. (What ends with the transaction,
/// and was to be had by the try, can't be given back: there a cancellation comes too late.)
template <typename Wanted> class cancellable_wait
{
  public:
	cancellable_wait(Wanted &wanted, const wait_time &time) noexcept : wanted_(wanted), time_(time)
	{
	}

	/// First of all. One that nobody will cancel takes a single request.
	void
	begin(transaction_status status, bool may_be_cancelled = true) noexcept
	{
		status_ = status;
		if (!may_be_cancelled || (!is_no_wait(time_) && status == transaction_status::idle))
			step_ = step::wait;
	}

	[[nodiscard]] std::optional<request>
	next()
	{
		if (is_cancelled_ && step_ <= step::wait)
			end_wait(wait_outcome::cancelled);
		asked_ = request_of(step_);
		return asked_;
	}

	void
	succeeded(const reply &answer)
	{
		switch (step_)
		{
			case step::attempt:
				attempted(wanted_.is_granted(*asked_, answer));
				break;
			case step::savepoint:
				is_saved_ = true;
				step_ = step::wait;
				break;
			case step::wait:
				waited(wanted_.is_granted(*asked_, answer));
				break;
			case step::give_back: // should somebody else have done so, that is all right
				end_wait(wait_outcome::cancelled);
				break;
			case step::roll_back:
				step_ = step::drop_savepoint;
				break;
			default:
				is_saved_ = false;
				end_or_give_back();
		}
	}

	/// False: the failure is the operation's.
	[[nodiscard]] bool
	recovers(const error &failure)
	{
		bool is_lost = dynamic_cast<const connection_lost *>(&failure) != nullptr;

		if (step_ == step::wait && is_own_timeout(*asked_, failure))
		{
			waited(false);
			return true;
		}
		if (step_ == step::wait && is_cancelled_ && !is_lost)
		{
			outcome_ = wait_outcome::cancelled;
			step_ = is_saved_ ? step::roll_back : step::done;
			return true;
		}
		is_left_ = !is_lost && (step_ == step::give_back || outcome_ == wait_outcome::taken);
		return false;
	}

	void
	cancel() noexcept
	{
		is_cancelled_ = true;
	}

	/// Somebody else has used the connection, and read an answer. (We have overheard it.) It ends
	/// as if it were cancelled.
	void
	disturbed() noexcept
	{
		is_cancelled_ = true;
		is_disturbed_ = true;
	}

	[[nodiscard]] bool
	is_cancelled() const noexcept
	{
		return is_cancelled_;
	}

	/// May the answer take so long that a cancellation should interrupt the server?
	[[nodiscard]] bool
	is_waiting() const noexcept
	{
		return step_ == step::wait;
	}

	/// After a failure: is what the server has granted still held?
	[[nodiscard]] bool
	is_left() const noexcept
	{
		return is_left_;
	}

	/// What a cancellation is called.
	[[nodiscard]] wait_outcome
	cancellation() const noexcept
	{
		return is_disturbed_ ? wait_outcome::disturbed : wait_outcome::cancelled;
	}

	/// Once there is no request any more.
	[[nodiscard]] wait_outcome
	result() const noexcept
	{
		return outcome_ == wait_outcome::cancelled ? cancellation() : outcome_;
	}

  private:
	/// In the order in which they come.
	enum class step : unsigned char {
		attempt,
		savepoint,
		wait,
		give_back,
		roll_back,
		drop_savepoint,
		done,
	};

	[[nodiscard]] std::optional<request>
	request_of(step asking)
	{
		switch (asking)
		{
			case step::attempt:
				return wanted_.take_request(milliseconds::zero(), status_);
			case step::savepoint:
				return savepoint_statement;
			case step::wait:
				return wanted_.take_request(time_, status_);
			case step::give_back:
				return wanted_.release_request();
			case step::roll_back:
				return roll_back_to_savepoint_statement;
			case step::drop_savepoint:
				return drop_savepoint_statement;
			default:
				return {};
		}
	}

	void
	attempted(bool is_granted)
	{
		if (!is_granted && !is_no_wait(time_))
			step_ = step::savepoint;
		else
		{
			outcome_ = is_granted ? wait_outcome::taken : wait_outcome::refused;
			end_or_give_back();
		}
	}

	void
	waited(bool is_granted)
	{
		if (!is_cancelled_)
			return end_wait(is_granted ? wait_outcome::taken : wait_outcome::refused);
		if (!is_granted)
			return end_wait(wait_outcome::cancelled);
		outcome_ = wait_outcome::cancelled;
		step_ = wanted_.ends_with_transaction() ? step::roll_back : step::give_back;
	}

	void
	end_wait(wait_outcome result)
	{
		outcome_ = result;
		step_ = is_saved_ ? step::drop_savepoint : step::done;
	}

	/// What has been taken when a cancellation comes is given back, if it can be.
	void
	end_or_give_back()
	{
		if (outcome_ == wait_outcome::taken && is_cancelled_ && !wanted_.ends_with_transaction())
			step_ = step::give_back;
		else
			step_ = step::done;
	}

	Wanted &wanted_;
	wait_time time_;
	bool is_cancelled_ = false;
	bool is_disturbed_ = false;
	bool is_saved_ = false;
	bool is_left_ = false;
	step step_ = step::attempt;
	wait_outcome outcome_ = wait_outcome::refused;
	transaction_status status_ = transaction_status::idle;
	std::optional<request> asked_;
};

/// A machine that waits for what is wanted, as a driver of machines sees it.
template <typename Wanted> class interruptible
{
  public:
	using outcome = wait_outcome;

	interruptible(const interruptible &) = delete;
	interruptible &operator=(const interruptible &) = delete;

	void
	cancel() noexcept
	{
		wait_.cancel();
	}

	/// See there.
	void
	disturbed() noexcept
	{
		wait_.disturbed();
	}

	/// May the answer take so long that a cancellation should interrupt the server?
	[[nodiscard]] bool
	is_waiting() const noexcept
	{
		return wait_.is_waiting();
	}

	[[nodiscard]] bool
	wants_interruption() const noexcept
	{
		return wait_.is_cancelled() && is_waiting();
	}

  protected:
	interruptible(Wanted &wanted, const wait_time &time) noexcept : wait_(wanted, time)
	{
	}

	~interruptible() = default;

	cancellable_wait<Wanted> wait_;
};
} // namespace pglock::detail
