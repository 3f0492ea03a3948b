// protocol.hpp: the operations on a hold as plain state machines, for connections that don't wait
// for each answer.
//
// They send nothing themselves. Whoever drives one asks next() for a request, and then says what
// came of it by succeeded() or recovers(), until there is no next one. If one of these functions
// throws, or it does not recover from an error, the operation has ended so.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "../connection.hpp"
#include "../error.hpp"
#include "../key.hpp"
#include "cancellable_wait.hpp"
#include "hold.hpp"
#include "refusal.hpp"
#include "request.hpp"
#include "statements.hpp"

namespace pglock::detail
{
inline constexpr statement roll_back_statement{"ROLLBACK"};

/// What takes no time can't be cancelled.
struct uninterruptible
{
	void
	cancel() noexcept
	{
	}

	void
	disturbed() noexcept
	{
	}

	[[nodiscard]] bool
	wants_interruption() const noexcept
	{
		return false;
	}

	/// By when the answer has to be there.
	[[nodiscard]] deadline
	until() const noexcept
	{
		return {};
	}
};

/// Takes a level, and can be cancelled at any step, see cancellable_wait.hpp. An exclusive lock
/// that the object holds is not taken again.
class acquisition : public interruptible<hold>
{
  public:
	acquisition(hold &wanted, const wait_time &time) : interruptible(wanted, time), hold_(wanted)
	{
	}

	~acquisition()
	{
		if (step_ != step::done)
			take_back();
	}

	[[nodiscard]] std::optional<request>
	next()
	{
		asked_.reset();
		while (!asked_ && step_ != step::done)
			ask();
		return asked_;
	}

	void
	succeeded(const reply &answer)
	{
		switch (step_)
		{
			case step::owed_releases: // should somebody else have done so, that is all right
				hold_.settled();
				break;
			case step::own_hold:
				own_hold_known(answer == "t");
				break;
			case step::other_holds:
				other_hold_known(answer == "t");
				break;
			default:
				wait_.succeeded(answer);
		}
	}

	/// False: the failure is the operation's.
	[[nodiscard]] bool
	recovers(const error &failure)
	{
		if (step_ != step::wait)
			return false;
		if (wait_.recovers(failure))
			return true;
		// what the server has granted the hold has to know
		if (wait_.is_left())
		{
			hold_.granted();
			step_ = step::done;
		}
		return false;
	}

	[[nodiscard]] deadline
	until() const noexcept
	{
		return {};
	}

	/// Once there is no request any more.
	[[nodiscard]] outcome
	result() const noexcept
	{
		return wait_.result();
	}

  private:
	/// In the order in which they come.
	enum class step : unsigned char { owed_releases, own_hold, other_holds, wait, done };

	/// Asks for what the step needs, or goes to the next one.
	void
	ask()
	{
		if (wait_.is_cancelled())
			step_ = step::wait;
		switch (step_)
		{
			case step::owed_releases:
				return ask_for_owed_releases();
			case step::own_hold:
				return ask_of_own_hold();
			case step::other_holds:
				return ask_of_other_holds();
			default:
				asked_ = wait_.next();
				if (!asked_)
					finish();
		}
	}

	void
	ask_for_owed_releases()
	{
		(void)hold_.ready();
		asked_ = hold_.owed_release();
		if (!asked_)
			step_ = step::own_hold;
	}

	void
	ask_of_own_hold()
	{
		status_ = hold_.ready_to_take();
		if (hold_.may_be_over() && hold_.depth() == 0)
			hold_.forget();
		if (hold_.may_be_over())
			asked_ = hold_.held_request();
		else
			own_hold_known(hold_.depth() > 0);
	}

	void
	own_hold_known(bool is_held)
	{
		if (!is_held && hold_.lost())
			hold_.lose();
		else if (!is_held)
			hold_.forget();
		else if (!hold_.shared())
			throw_held_by_this(hold_.keys().front());
		step_ = step::other_holds;
	}

	void
	ask_of_other_holds()
	{
		for (const key &each : hold_.keys())
			if (hold *other = hold_.conflict_over(each))
			{
				if (!other->may_be_over())
					throw_would_deadlock(each);
				conflict_ = &each;
				asked_ = request(held_statement, {each.text().c_str()});
				return;
			}
		hold_.enter();
		is_entered_ = true;
		wait_.begin(status_);
		step_ = step::wait;
	}

	/// Objects whose transaction has ended may still believe that they hold the lock.
	void
	other_hold_known(bool is_held)
	{
		if (is_held)
			throw_would_deadlock(*conflict_);
		for (hold *other = hold_.conflict_over(*conflict_);
			 other != nullptr && other->may_be_over(); other = hold_.conflict_over(*conflict_))
			other->forget();
	}

	void
	finish()
	{
		if (wait_.result() == outcome::taken)
			hold_.granted();
		else
			take_back();
		step_ = step::done;
	}

	/// What another operation on the hold has announced is not ours.
	void
	take_back() noexcept
	{
		if (is_entered_)
			hold_.taken_back();
	}

	hold &hold_;
	bool is_entered_ = false;
	step step_ = step::owed_releases;
	transaction_status status_ = transaction_status::idle;
	const key *conflict_ = nullptr;
	std::optional<request> asked_;
};

/// Gives one level back, or all of them after an error.
class restitution : public uninterruptible
{
  public:
	restitution(hold &held, bool after_error)
		: hold_(held), is_after_error_(after_error),
		  step_(after_error ? step::roll_back : step::give_back)
	{
	}

	[[nodiscard]] std::optional<request>
	next()
	{
		if (step_ == step::roll_back)
		{
			if (hold_.rolls_back())
				return roll_back_statement;
			step_ = step::give_back;
		}
		while (step_ == step::give_back)
		{
			if (hold_.is_to_be_released())
			{
				(void)hold_.ready();
				return hold_.release_request();
			}
			if (!is_after_error_ || hold_.levels() == 0)
				step_ = step::done;
		}
		return {};
	}

	void
	succeeded(const reply &answer)
	{
		if (step_ == step::roll_back)
		{
			step_ = step::give_back;
			return;
		}
		hold_.released(answer);
		is_released_ = true;
		if (!is_after_error_)
			step_ = step::done;
	}

	/// False: the failure is the operation's.
	[[nodiscard]] bool
	recovers(const error &failure) noexcept
	{
		if (dynamic_cast<const connection_lost *>(&failure) != nullptr)
			hold_.lose();
		return false;
	}

	/// Once there is no request any more: was a level given back?
	[[nodiscard]] bool
	result() const noexcept
	{
		return is_released_;
	}

  private:
	enum class step : unsigned char { roll_back, give_back, done };

	hold &hold_;
	bool is_after_error_;
	bool is_released_ = false;
	step step_;
};

/// Asks for a number that the server knows of a key.
class question : public uninterruptible
{
  public:
	question(const hold &of, const statement &what, key asked)
		: hold_(of), what_(what), key_(std::move(asked))
	{
	}

	[[nodiscard]] std::optional<request>
	next()
	{
		if (is_answered_)
			return {};
		(void)hold_.ready();
		return request(what_, {key_.text().c_str()});
	}

	void
	succeeded(const reply &answer)
	{
		number_ = hold::number_of(answer);
		is_answered_ = true;
	}

	[[nodiscard]] bool
	recovers(const error &) const noexcept
	{
		return false;
	}

	/// Once there is no request any more.
	[[nodiscard]] std::int64_t
	result() const noexcept
	{
		return number_;
	}

  private:
	const hold &hold_;
	const statement &what_;
	key key_;
	bool is_answered_ = false;
	std::int64_t number_ = 0;
};
} // namespace pglock::detail
