// hold.hpp: one object's possession of a lock, or of several together: its books, and what is to be
// sent. Who drives it sends that: blocking_hold.hpp, or the machines of protocol.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../connection.hpp"
#include "../error.hpp"
#include "../key.hpp"
#include "../observer.hpp"
#include "../options.hpp"
#include "keys.hpp"
#include "refusal.hpp"
#include "request.hpp"
#include "session.hpp"
#include "statements.hpp"

namespace pglock::detail
{
/// How many slots a key has; none: it is a lock that is wanted.
using slot_count = std::optional<int>;

/// Possession of one lock, or of several that are taken and released together, in one mode and
/// scope; or of one of the slots of a key. It does not move: the session knows where it is.
class hold
{
  public:
	hold(connection_ref connection, std::vector<key> keys, const options &options,
		 slot_count slots = {})
		: connection_(connection), session_(connection.session()), keys_(in_order(std::move(keys))),
		  slots_(slots ? std::to_string(*slots) : ""),
		  scope_(options.scope.value_or(connection.default_scope())), shared_(options.shared),
		  rollback_on_error_(options.rollback_on_error), statements_(options.statements),
		  observer_(options.observer)
	{
		if (slots && options.shared)
			throw std::invalid_argument("a slot is not shared");
		if (keys_.size() > 1)
			array_ = array_text(keys_);
	}

	hold(const hold &) = delete;
	hold &operator=(const hold &) = delete;

	~hold()
	{
		forget();
	}

	/// The levels held, as far as that can be known without a round trip.
	[[nodiscard]] unsigned
	depth() const noexcept
	{
		return depth_ == 0 || lost() || (ends_with_transaction() && is_transaction_over()) ? 0
																						   : depth_;
	}

	[[nodiscard]] static std::int64_t
	number_of(const reply &answer)
	{
		return answer ? detail::number_of(*answer) : 0;
	}

	[[nodiscard]] bool
	lost() const noexcept
	{
		return !session_->alive || !session_->is_ours() || connection_.lost();
	}

	/// Is it one of the slots of a key, and not a lock?
	[[nodiscard]] bool
	is_slot() const noexcept
	{
		return !slots_.empty();
	}

	/// The number of the slot that was taken last.
	[[nodiscard]] int
	slot() const noexcept
	{
		return static_cast<int>(detail::number_of(slot_));
	}

	[[nodiscard]] const std::vector<key> &
	keys() const noexcept
	{
		return keys_;
	}

	[[nodiscard]] bool
	shared() const noexcept
	{
		return shared_;
	}

	/// Throws if no statement can be sent.
	transaction_status
	ready() const
	{
		check_session(*session_, keys_.front());
		return check_not_busy();
	}

	/// Throws if a command is under way.
	transaction_status
	check_not_busy() const
	{
		transaction_status status = connection_.status();

		if (status == transaction_status::busy)
			throw_busy(keys_.front());
		return status;
	}

	/// Throws if the lock can't be taken here.
	[[nodiscard]] transaction_status
	ready_to_take() const
	{
		transaction_status status = ready();

		if (ends_with_transaction() && status == transaction_status::idle)
			throw error(description() + " needs a transaction block for transaction scope",
						"25P01");
		return status;
	}

	/// An object on the session that stands in the way of another one. Sessions may take a lock
	/// again and again, so the server would grant it; among themselves our objects exclude each
	/// other.
	[[nodiscard]] static hold *
	conflict(const detail::session &session, const key &wanted, bool shared, const hold *self)
	{
		auto [first, last] = session.holds.equal_range(wanted.text());
		auto found = std::find_if(first, last, [&](auto &entry) {
			hold *other = entry.second;
			return other != self && (!shared || !other->shared_) && other->depth() > 0;
		});

		return found != last ? found->second : nullptr;
	}

	/// What gives back a level that an object which has ended could not, if there is one; then
	/// settled() is to be called.
	[[nodiscard]] std::optional<request>
	owed_release() const
	{
		if (session_->owed.empty())
			return {};
		return release_of(session_->owed.front());
	}

	void
	settled() noexcept
	{
		session_->owed.pop_front();
	}

	/// A session gets no slot that it holds already, so slots need no such care.
	[[nodiscard]] hold *
	conflict_over(const key &wanted) const
	{
		return is_slot() ? nullptr : conflict(*session_, wanted, shared_, this);
	}

	/// Whether it is held, if the books may be behind.
	[[nodiscard]] request
	held_request() const noexcept
	{
		if (is_slot())
			return {held_slot_statement, {name().c_str(), slot_.c_str()}};
		return {held_statement, {name().c_str()}};
	}

	/// What the session owes, once this can't be released.
	[[nodiscard]] detail::owed_release
	owed(const key &of) const
	{
		return {of.text(), shared_, slot_};
	}

	/// Does the lock end with its transaction, and can't be released?
	[[nodiscard]] bool
	ends_with_transaction() const noexcept
	{
		return scope_ == scope::transaction;
	}

	/// Those that the books have, though the connection may be lost or the transaction over.
	[[nodiscard]] unsigned
	levels() const noexcept
	{
		return depth_;
	}

	/// May the transaction that keeps the lock have ended without our hearing of it?
	[[nodiscard]] bool
	may_be_over() const noexcept
	{
		return depth_ > 0 && ends_with_transaction();
	}

	/// Announces a level, before it is taken: there may be no memory afterwards. Then either
	/// granted() or taken_back() is to be called.
	void
	enter()
	{
		if (depth_ == 0 && !is_slot())
			enter_books();
		if (observer_ != nullptr)
			waiting_since_ = lock_event::clock::now();
		tell(&observer::waiting, waiting_since_);
	}

	void
	granted() noexcept
	{
		if (depth_++ == 0)
		{
			transaction_ = session_->ended_transactions;
			if (observer_ != nullptr)
				held_since_ = lock_event::clock::now();
		}
		tell(&observer::acquired, waiting_since_);
	}

	void
	taken_back() noexcept
	{
		if (depth_ == 0)
			leave();
		tell(&observer::refused, waiting_since_);
	}

	/// What takes a level. Valid until the next one is made.
	[[nodiscard]] request
	take_request(const wait_time &time, transaction_status status)
	{
		const char *shared = shared_ ? "t" : "f";
		const char *scope = ends_with_transaction() ? "transaction" : "session";
		const char *limit = nullptr;

		if (is_no_wait(time) && is_slot())
			return {try_slot_statement, {name().c_str(), slots_.c_str(), scope}};
		if (is_no_wait(time) && keys_.size() == 1)
			return {try_statement, {name().c_str(), shared, scope}};
		if (time)
		{
			interval_ = interval_text(*time);
			limit = interval_.c_str();
		}
		if (is_slot())
			return take_slot_request(limit, scope, status);
		if (keys_.size() > 1)
			return {acquire_all_statement, {array_.c_str(), limit, shared, scope}};
		// outside a transaction block CALL waits without a snapshot
		if (!ends_with_transaction() && status == transaction_status::idle)
		{
			if (limit == nullptr && !shared_)
				return {lock_statement, {name().c_str()}};
			return {lock_in_time_statement, {name().c_str(), limit, shared}};
		}
		return {acquire_statement, {name().c_str(), limit, shared, scope}};
	}

	/// Does the answer to that say that it is held?
	[[nodiscard]] bool
	is_granted(const request &asked, const reply &answer)
	{
		if (!is_slot())
			return detail::is_granted(asked, answer);
		if (answer)
			slot_ = *answer;
		return answer.has_value();
	}

	/// For messages.
	[[nodiscard]] std::string
	description() const
	{
		return (!is_slot()		? "lock \""
				: slot_.empty() ? "a slot of \""
								: "slot " + slot_ + " of \"") +
			   name() + '"';
	}

	/// Throws that the time has passed.
	[[noreturn]] void
	throw_timeout() const
	{
		throw timeout_error("could not acquire " +
								(is_slot() ? "a slot of \"" + name() + '"' : description()) +
								" in time",
							"55P03");
	}

	/// Has the server to be asked to release a level? Otherwise that is done, with the answer
	/// false: there is none, or its transaction keeps it.
	[[nodiscard]] bool
	is_to_be_released()
	{
		if (!session_->is_ours())
			forget();
		if (depth_ == 0)
			return false;
		if (!session_->alive)
		{
			lose();
			check_session(*session_, keys_.front());
		}
		if (!ends_with_transaction())
			return true;
		if (--depth_ == 0)
			leave();
		return false;
	}

	[[nodiscard]] request
	release_request() const noexcept
	{
		if (keys_.size() > 1)
			return {release_each_statement, {array_.c_str(), shared_ ? "t" : "f"}};
		if (is_slot())
			return {release_slot_statement, {name().c_str(), slot_.c_str()}};
		return release_of(name().c_str(), shared_);
	}

	/// The answer to the request to release.
	void
	released(const reply &answer)
	{
		if (answer != "t")
		{
			lose();
			throw not_held_error(description() + " was not held: somebody released it");
		}
		if (--depth_ == 0)
			leave();
		tell(&observer::released, held_since_);
	}

	/// Nothing is held any more, though it should be.
	void
	lose() noexcept
	{
		if (depth_ == 0)
			return;
		forget();
		tell(&observer::lost, held_since_);
	}

	/// Tells of a release that failed where that can't be thrown.
	void
	report_release_failure(const std::exception &failure) const noexcept
	{
		if (observer_ != nullptr)
			observer_->release_failed(event_since(held_since_), failure);
		detail::report_release_failure(keys_.front(), failure);
	}

	/// Whatever was held above these levels is not any more.
	void
	forget(unsigned kept = 0) noexcept
	{
		if (depth_ <= kept)
			return;
		depth_ = kept;
		if (kept == 0)
			leave();
	}

	/// Is there a transaction to be rolled back before a release after an error? Throws if that
	/// can't be told.
	[[nodiscard]] bool
	rolls_back() const
	{
		return rollback_on_error_ && session_->alive && session_->is_ours() &&
			   check_not_busy() != transaction_status::idle;
	}

	/// Is there one that has failed? It stands in the way of any release.
	[[nodiscard]] bool
	rolls_back_failed() const noexcept
	{
		return rollback_on_error_ && session_->alive &&
			   connection_.status() == transaction_status::failed;
	}

	[[nodiscard]] const connection_ref &
	connection() const noexcept
	{
		return connection_;
	}

	[[nodiscard]] const std::shared_ptr<detail::session> &
	session() const noexcept
	{
		return session_;
	}

	[[nodiscard]] pglock::statements
	statements() const noexcept
	{
		return statements_;
	}

  private:
	/// May nothing be held any more, as far as that can be known without asking?
	[[nodiscard]] bool
	is_transaction_over() const noexcept
	{
		return transaction_ != session_->ended_transactions ||
			   connection_.status() == transaction_status::idle;
	}

	[[nodiscard]] const std::string &
	name() const noexcept
	{
		return keys_.front().text();
	}

	/// What takes a slot, as take_request().
	[[nodiscard]] request
	take_slot_request(const char *limit, const char *scope,
					  transaction_status status) const noexcept
	{
		if (!ends_with_transaction() && status == transaction_status::idle)
			return {slot_statement, {name().c_str(), slots_.c_str(), limit}};
		return {acquire_slot_statement, {name().c_str(), slots_.c_str(), limit, scope}};
	}

	[[nodiscard]] lock_event
	event_since(lock_event::clock::time_point since) const noexcept
	{
		return {keys_, slot(), shared_, scope_, since};
	}

	void
	tell(void (observer::*what)(const lock_event &) noexcept,
		 lock_event::clock::time_point since) const noexcept
	{
		if (observer_ != nullptr)
			(observer_->*what)(event_since(since));
	}

	void
	enter_books()
	{
		try
		{
			for (const key &each : keys_)
				session_->holds.emplace(each.text(), this);
		}
		catch (...)
		{
			leave();
			throw;
		}
	}

	void
	leave() noexcept
	{
		for (const key &each : keys_)
		{
			auto [first, last] = session_->holds.equal_range(each.text());
			auto mine =
				std::find_if(first, last, [&](auto &entry) { return entry.second == this; });

			if (mine != last)
				session_->holds.erase(mine);
		}
	}

	connection_ref connection_;
	std::shared_ptr<detail::session> session_;
	std::vector<key> keys_;
	std::string array_;
	std::string interval_;
	/// How many slots the key has, as text; empty: this is a lock.
	std::string slots_;
	std::string slot_;
	pglock::scope scope_;
	bool shared_;
	bool rollback_on_error_;
	pglock::statements statements_;
	/// null: nobody observes it
	pglock::observer *observer_;
	lock_event::clock::time_point waiting_since_{};
	lock_event::clock::time_point held_since_{};
	unsigned depth_ = 0;
	/// How many transactions of the session had ended when the first level was taken.
	unsigned transaction_ = 0;
};
} // namespace pglock::detail
