// lease_protocol.hpp: the operations on a lease as plain state machines, see protocol.hpp. Both
// halves of the client drive them: drive.hpp waits for each answer, operation.hpp does not.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "../boot_clock.hpp"
#include "../connection.hpp"
#include "../error.hpp"
#include "../options.hpp"
#include "cancellable_wait.hpp"
#include "lease_state.hpp"
#include "protocol.hpp"
#include "request.hpp"
#include "session_link.hpp"
#include "statements.hpp"

namespace pglock::detail
{
/// What a wait for a lease asks for.
class wanted_lease
{
  public:
	wanted_lease(std::shared_ptr<lease_state> lease, const lease_options &options)
		: lease_(std::move(lease)), holder_(options.holder), slots_(std::to_string(options.slots))
	{
	}

	/// Outside a transaction block CALL waits without a snapshot, but lets the server log an error
	/// if the lease is not to be had.
	[[nodiscard]] request
	take_request(const wait_time &time, transaction_status status)
	{
		bool calls = status == transaction_status::idle && !is_no_wait(time);

		if (time)
			limit_ = interval_text(*time);
		return {calls ? lease_statement : acquire_lease_statement,
				{lease_->key().text().c_str(), lease_->ttl_text(), time ? limit_.c_str() : nullptr,
				 holder_.empty() ? nullptr : holder_.c_str(), slots_.c_str()}};
	}

	[[nodiscard]] bool
	is_granted(const request &, const reply &answer)
	{
		if (answer)
			lease_->granted(*answer);
		return answer.has_value();
	}

	[[nodiscard]] request
	release_request() const noexcept
	{
		return lease_->release();
	}

	/// A lease can be given back in the transaction that took it.
	[[nodiscard]] bool
	ends_with_transaction() const noexcept
	{
		return false;
	}

  private:
	std::shared_ptr<lease_state> lease_;
	std::string holder_;
	std::string slots_;
	std::string limit_;
};

/// Takes a lease. What the wait for it has taken is missing from its deadline, so it is then
/// renewed. If that fails, the lease is held all the same, and somebody has to know of it.
class lease_acquisition : public interruptible<wanted_lease>
{
  public:
	using clock = lease_state::clock;

	lease_acquisition(std::shared_ptr<lease_state> lease, session_link over,
					  const lease_options &options, bool may_be_cancelled)
		: interruptible(wanted_, options.timeout), lease_(std::move(lease)), over_(std::move(over)),
		  timeout_(options.timeout), wanted_(lease_, options), may_be_cancelled_(may_be_cancelled)
	{
	}

	[[nodiscard]] std::optional<request>
	next()
	{
		if (step_ == step::begin)
		{
			wait_.begin(over_.ready(lease_->key()), may_be_cancelled_);
			step_ = step::wait;
		}
		if (step_ == step::wait)
			if (std::optional<request> asked = ask_of_wait())
				return asked;
		switch (step_)
		{
			case step::renewal:
				return ask(lease_->renewal());
			case step::give_back:
				return ask(lease_->release());
			default:
				return {};
		}
	}

	void
	succeeded(const reply &answer)
	{
		if (step_ == step::wait)
			return wait_.succeeded(answer);
		if (step_ == step::give_back)
		{
			is_given_back_ = true;
			step_ = step::done;
			return;
		}
		if (answer == "t")
			lease_->mark_held_since(sent_);
		else
			lease_->mark_lost();
		step_ = wait_.is_cancelled() ? step::give_back : step::done;
	}

	/// False: the failure is the operation's.
	[[nodiscard]] bool
	recovers(const error &failure)
	{
		if (step_ == step::wait)
			return wait_.recovers(failure);
		return std::exchange(step_, step::done) == step::renewal && !wait_.is_cancelled();
	}

	/// By when the answer has to be there.
	[[nodiscard]] deadline
	until() const noexcept
	{
		return until_;
	}

	/// Once there is no request any more.
	[[nodiscard]] outcome
	result() const noexcept
	{
		return is_given_back_ ? wait_.cancellation() : wait_.result();
	}

	/// The key's name, for messages.
	[[nodiscard]] std::string
	description() const
	{
		return "lease \"" + lease_->key().text() + '"';
	}

	[[nodiscard]] const std::shared_ptr<lease_state> &
	lease() const noexcept
	{
		return lease_;
	}

  private:
	enum class step : unsigned char { begin, wait, renewal, give_back, done };

	/// Nothing: the wait is over.
	[[nodiscard]] std::optional<request>
	ask_of_wait()
	{
		bool is_granted = wait_.result() == outcome::taken;
		std::optional<request> asked = wait_.next();

		if (asked)
		{
			// what comes after the grant takes nothing from the lease
			if (!is_granted)
				sent_ = clock::now();
			until_ = timeout_ ? answer_limit(*timeout_, lease_->grace()) : pglock::deadline();
			return asked;
		}
		end_wait();
		return {};
	}

	void
	end_wait() noexcept
	{
		bool is_late = clock::now() - sent_ > lease_->ttl() / 10;
		bool is_taken = wait_.result() == outcome::taken;

		if (is_taken)
			lease_->mark_held_since(sent_);
		step_ = is_taken && is_late && over_.session->alive ? step::renewal : step::done;
	}

	[[nodiscard]] request
	ask(const request &asked) noexcept
	{
		sent_ = clock::now();
		until_ = answer_limit(milliseconds::zero(), lease_->grace());
		return asked;
	}

	std::shared_ptr<lease_state> lease_;
	session_link over_;
	wait_time timeout_;
	wanted_lease wanted_;
	bool may_be_cancelled_;
	bool is_given_back_ = false;
	step step_ = step::begin;
	clock::time_point sent_{};
	pglock::deadline until_;
};

/// Asks one thing of a lease, whose answer has to be there within the limit.
class lease_question : public uninterruptible
{
  public:
	lease_question(std::shared_ptr<lease_state> of, session_link over, wait_time limit)
		: lease_(std::move(of)), over_(std::move(over)), limit_(limit)
	{
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

	/// Once there is no request any more: was the answer yes?
	[[nodiscard]] bool
	result() const noexcept
	{
		return says_yes_;
	}

  protected:
	/// Once only. Throws if nothing can be sent.
	[[nodiscard]] std::optional<request>
	ask(const request &asked)
	{
		if (is_answered_)
			return {};
		(void)over_.ready(lease_->key());
		sent_ = lease_state::clock::now();
		if (limit_)
			until_ = answer_limit(milliseconds::zero(), *limit_);
		return asked;
	}

	bool
	answered(const reply &answer) noexcept
	{
		is_answered_ = true;
		says_yes_ = answer == "t";
		return says_yes_;
	}

	[[nodiscard]] lease_state &
	lease() const noexcept
	{
		return *lease_;
	}

	[[nodiscard]] lease_state::clock::time_point
	sent() const noexcept
	{
		return sent_;
	}

  private:
	std::shared_ptr<lease_state> lease_;
	session_link over_;
	wait_time limit_;
	lease_state::clock::time_point sent_{};
	deadline until_;
	bool is_answered_ = false;
	bool says_yes_ = false;
};

/// From the request on the lease lasts for its ttl once more, if the answer is yes.
class lease_renewal : public lease_question
{
  public:
	using lease_question::lease_question;

	[[nodiscard]] std::optional<request>
	next()
	{
		return ask(lease().renewal());
	}

	void
	succeeded(const reply &answer) noexcept
	{
		if (answered(answer))
			lease().mark_held_since(sent());
		else
			lease().mark_lost();
	}
};

/// Does the server know it as held?
class lease_inquiry : public lease_question
{
  public:
	using lease_question::lease_question;

	[[nodiscard]] std::optional<request>
	next()
	{
		return ask(lease().request_of(holds_lease_statement));
	}

	void
	succeeded(const reply &answer) noexcept
	{
		(void)answered(answer);
	}
};

/// Is the lease held until the transaction ends? Waits for as long as a takeover takes, for which
/// nobody can say a time. A cancellation interrupts the server, and costs the transaction.
class lease_check : public lease_question
{
  public:
	lease_check(std::shared_ptr<lease_state> of, session_link over)
		: lease_question(std::move(of), std::move(over), {})
	{
	}

	[[nodiscard]] std::optional<request>
	next()
	{
		if (is_cancelled_)
			return {};
		return ask(lease().check());
	}

	void
	succeeded(const reply &) noexcept
	{
		(void)answered("t");
	}

	/// Throws `lease_lost` if it is not held.
	[[nodiscard]] bool
	recovers(const error &failure)
	{
		if (is_cancelled_ && failure.sqlstate() == "57014")
			return true;
		if (failure.sqlstate() != "55000")
			return false;
		lease().throw_check_failure(failure.sqlstate(), failure.what());
	}

	void
	cancel() noexcept
	{
		is_cancelled_ = true;
	}

	[[nodiscard]] bool
	wants_interruption() const noexcept
	{
		return is_cancelled_;
	}

  private:
	bool is_cancelled_ = false;
};

/// Gives the lease back. Yes: it was held.
class lease_release : public lease_question
{
  public:
	using lease_question::lease_question;

	[[nodiscard]] std::optional<request>
	next()
	{
		return ask(lease().release());
	}

	void
	succeeded(const reply &answer) noexcept
	{
		(void)answered(answer);
		lease().mark_lost();
	}
};
} // namespace pglock::detail
