// hold.hpp: one object's possession of a lock, or of several together; what all public classes
// share.
#pragma once

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "../connection.hpp"
#include "../error.hpp"
#include "../key.hpp"
#include "../options.hpp"
#include "request.hpp"
#include "session.hpp"
#include "statements.hpp"

namespace pglock::detail
{
[[noreturn]] inline void
throw_would_deadlock(const key &key)
{
	throw std::system_error(std::make_error_code(std::errc::resource_deadlock_would_occur),
							"lock \"" + key.text() + "\" is held on this connection");
}

[[noreturn]] inline void
throw_held_by_this(const key &key)
{
	throw acquire_error("lock \"" + key.text() + "\" is held by this object");
}

[[noreturn]] inline void
throw_busy(const key &key)
{
	throw error("the connection of lock \"" + key.text() + "\" is busy with another command");
}

[[noreturn]] inline void
throw_timeout(const key &key)
{
	throw timeout_error("could not acquire lock \"" + key.text() + "\" in time", "55P03");
}

/// Throws if nothing may be sent over the session's connection.
inline void
check_session(const session &session, const key &key)
{
	if (!session.is_ours())
		throw connection_lost("the connection of lock \"" + key.text() +
							  "\" belongs to the process that this one was forked from");
	if (!session.alive)
		throw connection_lost("the connection of lock \"" + key.text() + "\" is closed");
}

/// Possession of one lock, or of several that are taken and released together, in one mode and
/// scope. It does not move: the session knows where it is.
class hold
{
  public:
	hold(connection_ref connection, std::vector<key> keys, const options &options)
		: connection_(connection), session_(connection.session()), keys_(std::move(keys)),
		  scope_(options.scope.value_or(connection.default_scope())), shared_(options.shared),
		  rollback_on_error_(options.rollback_on_error), statements_(options.statements),
		  grace_(options.grace), is_in_time_(options.timeout.has_value())
	{
		if (keys_.empty())
			throw std::invalid_argument("there is no key");
		std::sort(keys_.begin(), keys_.end());
		keys_.erase(std::unique(keys_.begin(), keys_.end()), keys_.end());
		if (keys_.size() > 1)
			array_ = array_text(keys_);
	}

	hold(const hold &) = delete;
	hold &operator=(const hold &) = delete;

	~hold()
	{
		end(false);
	}

	/// The wait that comes next, which says how long the server may take to answer.
	void
	expect(const wait_time &time) noexcept
	{
		is_in_time_ = time.has_value();
	}

	/// Takes one level more. False: the time passed. If it throws, nothing was taken.
	[[nodiscard]] bool
	take(const wait_time &time)
	{
		transaction_status status = ready_to_take();

		expect(time);
		settle();
		(void)checked_depth();
		for (const key &each : keys_)
			check_conflicts(connection_, *session_, each, shared_, answer_limit(), this);
		enter();

		bool taken = false;

		try
		{
			taken = ask(take_request(time, status), answer_limit(time));
		}
		catch (...)
		{
			taken_back();
			throw;
		}
		if (taken)
			granted();
		else
			taken_back();
		return taken;
	}

	/// Gives one level back. False: there was none, or its transaction keeps it.
	bool
	give_back()
	{
		if (!is_to_be_released())
			return false;
		check_not_busy();
		try
		{
			released(run(release_request(), answer_limit()));
		}
		catch (const connection_lost &)
		{
			forget();
			throw;
		}
		try
		{
			settle();
		}
		catch (const std::exception &)
		{
			// it is owed still, and the handler has been told
		}
		return true;
	}

	/// Rolls back what is open if that is wanted, and gives all levels back. True: there were some.
	bool
	handle_error()
	{
		bool released = false;

		if (rolls_back())
			connection_.rollback(answer_limit());
		while (depth_ > 0)
			released = give_back() || released;
		return released;
	}

	/// The end of possession where nothing can be thrown. A transaction that has failed is rolled
	/// back, and after an error that ended a guard so is an open one. What can't be released is
	/// owed. In another process it is only forgotten.
	void
	end(bool by_error) noexcept
	{
		if (depth_ == 0)
			return;
		if (session_->is_ours())
			try
			{
				roll_back_failed();
				if (by_error && rolls_back())
					connection_.rollback(answer_limit());
				while (depth_ > 0)
					give_back();
			}
			catch (const std::exception &failure)
			{
				release_failed(failure, depth_);
			}
		forget();
	}

	/// As end(), but of one level.
	void
	end_level() noexcept
	{
		unsigned kept = depth_ > 0 ? depth_ - 1 : 0;

		if (kept == 0 || !session_->is_ours())
			return end(false);
		try
		{
			roll_back_failed();
			give_back();
		}
		catch (const std::exception &failure)
		{
			release_failed(failure, depth_ - std::min(depth_, kept));
		}
		depth_ = std::min(depth_, kept);
	}

	/// The levels held, as far as that can be known without a round trip.
	[[nodiscard]] unsigned
	depth() const noexcept
	{
		return depth_ == 0 || lost() || (ends_with_transaction() && is_transaction_over()) ? 0
																						   : depth_;
	}

	/// The same, but the server is asked where our books may be behind.
	[[nodiscard]] unsigned
	checked_depth()
	{
		return checked_depth(connection_, answer_limit());
	}

	/// By another way to the same session: our own may be a transaction object that has ended.
	[[nodiscard]] unsigned
	checked_depth(connection_ref asked, const deadline &until)
	{
		const char *values[] = {name().c_str()};

		if (may_be_over() &&
			(depth() == 0 || asked.execute(held_statement.text, values, until) != "t"))
			forget();
		return depth();
	}

	/// Asks the server for a number that it knows of a key.
	[[nodiscard]] std::int64_t
	number(const statement &what, const key &of)
	{
		(void)ready();
		settle();
		return number_of(run({what, {of.text().c_str()}}, answer_limit()));
	}

	[[nodiscard]] static std::int64_t
	number_of(const reply &answer)
	{
		std::int64_t number = 0;

		if (answer)
			std::from_chars(answer->data(), answer->data() + answer->size(), number);
		return number;
	}

	[[nodiscard]] bool
	lost() const noexcept
	{
		return !session_->alive || !session_->is_ours() || connection_.lost();
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

	// What an operation is made of. Those above are for connections that wait for each answer.

	/// Throws if no statement can be sent.
	transaction_status
	ready() const
	{
		check_session(*session_, keys_.front());
		return check_not_busy();
	}

	/// Throws if the lock can't be taken here.
	[[nodiscard]] transaction_status
	ready_to_take() const
	{
		transaction_status status = ready();

		if (ends_with_transaction() && status == transaction_status::idle)
			throw error("lock \"" + name() + "\" needs a transaction block for transaction scope",
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

	/// Throws if there is one. Asks the server where our books may be behind.
	static void
	check_conflicts(connection_ref connection, const detail::session &session, const key &wanted,
					bool shared, const deadline &until, const hold *self = nullptr)
	{
		while (hold *other = conflict(session, wanted, shared, self))
			if (other->checked_depth(connection, until) > 0)
				throw_would_deadlock(wanted);
	}

	/// What gives back a level that an object which has ended could not, if there is one; then
	/// settled() is to be called.
	[[nodiscard]] std::optional<request>
	owed_release() const
	{
		if (session_->owed.empty())
			return {};
		return request(release_of(session_->owed.front().shared),
					   {session_->owed.front().key.c_str()});
	}

	void
	settled() noexcept
	{
		session_->owed.pop_front();
	}

	[[nodiscard]] hold *
	conflict_over(const key &wanted) const
	{
		return conflict(*session_, wanted, shared_, this);
	}

	/// Does the lock end with its transaction, and can't be released?
	[[nodiscard]] bool
	ends_with_transaction() const noexcept
	{
		return scope_ == scope::transaction;
	}

	[[nodiscard]] bool
	has_levels() const noexcept
	{
		return depth_ > 0;
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
		if (depth_ > 0)
			return;
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
	granted() noexcept
	{
		if (depth_++ == 0)
			transaction_ = session_->ended_transactions;
	}

	void
	taken_back() noexcept
	{
		if (depth_ == 0)
			leave();
	}

	/// What takes a level. Valid until the next one is made.
	[[nodiscard]] request
	take_request(const wait_time &time, transaction_status status)
	{
		const char *shared = shared_ ? "t" : "f";
		const char *scope = ends_with_transaction() ? "transaction" : "session";
		const char *limit = nullptr;

		if (is_no_wait(time) && keys_.size() == 1)
			return {try_statement, {name().c_str(), shared, scope}};
		if (time)
		{
			interval_ = interval_text(*time);
			limit = interval_.c_str();
		}
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
			forget();
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
		return {release_of(shared_), {name().c_str()}};
	}

	/// The answer to the request to release.
	void
	released(const reply &answer)
	{
		if (answer != "t")
		{
			forget();
			throw not_held_error("lock \"" + name() + "\" was not held: somebody released it");
		}
		if (--depth_ == 0)
			leave();
	}

	/// Whatever was held is not any more.
	void
	forget() noexcept
	{
		if (depth_ > 0)
			leave();
		depth_ = 0;
	}

	/// Is there a transaction to be rolled back before a release after an error? Throws if that
	/// can't be told.
	[[nodiscard]] bool
	rolls_back() const
	{
		return rollback_on_error_ && session_->alive && session_->is_ours() &&
			   check_not_busy() != transaction_status::idle;
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
	/// A transaction that has failed stands in the way of a release.
	void
	roll_back_failed() const
	{
		if (rollback_on_error_ && session_->alive &&
			connection_.status() == transaction_status::failed)
			connection_.rollback(answer_limit());
	}

	/// May nothing be held any more, as far as that can be known without asking?
	[[nodiscard]] bool
	is_transaction_over() const noexcept
	{
		return transaction_ != session_->ended_transactions ||
			   connection_.status() == transaction_status::idle;
	}

	/// By when the server has to answer what it can answer after that wait.
	[[nodiscard]] deadline
	answer_limit(const wait_time &time) const
	{
		if (!time)
			return {};
		return std::chrono::steady_clock::now() + milliseconds(*time) + milliseconds(grace_);
	}

	/// The same for what needs no wait.
	[[nodiscard]] deadline
	answer_limit() const
	{
		return answer_limit(is_in_time_ ? wait_time(milliseconds::zero()) : wait_time());
	}

	void
	settle()
	{
		detail::settle(connection_, *session_, statements_, answer_limit());
	}

	/// Tells of a failure, after which the session still has these levels unless it is lost. If
	/// there is no memory to remember them by, they are held as long as it lives.
	void
	release_failed(const std::exception &failure, unsigned levels) noexcept
	{
		report_release_failure(keys_.front(), failure);
		if (ends_with_transaction() || dynamic_cast<const connection_lost *>(&failure) != nullptr)
			return;
		try
		{
			for (; levels > 0; levels--)
				for (const key &each : keys_)
					session_->owed.push_back({each.text(), shared_});
		}
		catch (const std::bad_alloc &)
		{
		}
	}

	[[nodiscard]] const std::string &
	name() const noexcept
	{
		return keys_.front().text();
	}

	transaction_status
	check_not_busy() const
	{
		transaction_status status = connection_.status();

		if (status == transaction_status::busy)
			throw_busy(keys_.front());
		return status;
	}

	/// Asks for a level. False: the time passed.
	[[nodiscard]] bool
	ask(const request &asked, const deadline &until)
	{
		try
		{
			return is_granted(asked, run(asked, until));
		}
		catch (const error &failure)
		{
			if (!is_own_timeout(asked, failure))
				throw;
			return false;
		}
	}

	[[nodiscard]] reply
	run(const request &asked, const deadline &until)
	{
		return detail::run(connection_, *session_, statements_, asked.what(), asked.values(),
						   until);
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
	pglock::scope scope_;
	bool shared_;
	bool rollback_on_error_;
	pglock::statements statements_;
	time_limit grace_;
	/// Was a time given to the last wait?
	bool is_in_time_;
	unsigned depth_ = 0;
	/// How many transactions of the session had ended when the first level was taken.
	unsigned transaction_ = 0;
};
} // namespace pglock::detail
