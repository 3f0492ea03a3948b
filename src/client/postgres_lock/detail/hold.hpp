// hold.hpp: one object's possession of a lock, or of several together; what all public classes
// share.
#pragma once

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "../connection.hpp"
#include "../error.hpp"
#include "../key.hpp"
#include "../options.hpp"
#include "session.hpp"
#include "statements.hpp"

namespace pglock::detail
{
using milliseconds = std::chrono::milliseconds;

/// How long to wait. Nothing: for ever.
using wait_time = std::optional<milliseconds>;

/// The server's longest timeout.
inline constexpr milliseconds longest_wait{2147483647};

/// A timeout as SQL has it. With its unit: a bare number would be seconds.
[[nodiscard]] inline std::string
interval_text(milliseconds time)
{
	return std::to_string(time.count()) + " ms";
}

/// An array of text as SQL has it.
[[nodiscard]] inline std::string
array_text(const std::vector<key> &keys)
{
	std::string text = "{";

	for (const key &each : keys)
	{
		text += text.size() > 1 ? ",\"" : "\"";
		for (char character : each.text())
		{
			if (character == '"' || character == '\\')
				text += '\\';
			text += character;
		}
		text += '"';
	}
	return text += '}';
}

/// Is this the error of CALL pglock.lock() after the timeout that it was given? The session's
/// lock_timeout has the same SQLSTATE, and PostgreSQL's words, which never name the lock.
[[nodiscard]] inline bool
is_own_timeout(const error &failure) noexcept
{
	std::string_view message = failure.what();

	return failure.sqlstate() == "55P03" &&
		   message.substr(0, message.find('\n')).find("could not acquire lock ") !=
			   std::string_view::npos;
}

[[noreturn]] inline void
throw_would_deadlock(const key &key)
{
	throw std::system_error(std::make_error_code(std::errc::resource_deadlock_would_occur),
							"lock \"" + key.text() + "\" is held on this connection");
}

/// Possession of one lock, or of several that are taken and released together, in one mode and
/// scope. It does not move: the session knows where it is.
class hold
{
  public:
	hold(connection_ref connection, std::vector<key> keys, const options &options)
		: connection_(connection), session_(connection.session()), keys_(std::move(keys)),
		  scope_(options.scope.value_or(connection.default_scope())), shared_(options.shared),
		  rollback_on_error_(options.rollback_on_error), statements_(options.statements)
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

	/// Takes one level more. False: the time passed. If it throws, nothing was taken.
	[[nodiscard]] bool
	take(const wait_time &time)
	{
		transaction_status status = ready();

		(void)checked_depth();
		if (scope_ == scope::transaction && status == transaction_status::idle)
			throw error("lock \"" + name() + "\" needs a transaction block for transaction scope",
						"25P01");
		for (const key &each : keys_)
			check_conflicts(each);
		if (depth_ == 0)
			enter();

		bool taken = false;

		try
		{
			taken = ask(time, status);
		}
		catch (...)
		{
			if (depth_ == 0)
				leave();
			throw;
		}
		if (taken)
			depth_++;
		else if (depth_ == 0)
			leave();
		return taken;
	}

	/// Gives one level back. False: there was none, or its transaction keeps it.
	bool
	give_back()
	{
		if (depth_ == 0)
			return false;
		if (!session_->alive)
		{
			forget();
			throw connection_lost("the connection of lock \"" + name() + "\" is closed");
		}
		if (scope_ == scope::transaction)
		{
			if (--depth_ == 0)
				leave();
			return false;
		}

		reply answer;

		check_not_busy();
		try
		{
			answer = release();
		}
		catch (const connection_lost &)
		{
			forget();
			throw;
		}
		if (answer != "t")
		{
			forget();
			throw not_held_error("lock \"" + name() + "\" was not held: somebody released it");
		}
		if (--depth_ == 0)
			leave();
		return true;
	}

	/// Rolls back what is open if that is wanted, and gives all levels back. True: there were some.
	bool
	handle_error()
	{
		bool released = false;

		roll_back_if(transaction_status::failed);
		roll_back_if(transaction_status::open);
		while (depth_ > 0)
			released = give_back() || released;
		return released;
	}

	/// The end of possession where nothing can be thrown. A transaction that has failed stands in
	/// the way of a release, so it is rolled back, and after an error that ended a guard so is an
	/// open one.
	void
	end(bool by_error) noexcept
	{
		if (depth_ == 0)
			return;
		try
		{
			roll_back_if(transaction_status::failed);
			if (by_error)
				roll_back_if(transaction_status::open);
			while (depth_ > 0)
				give_back();
		}
		catch (const std::exception &failure)
		{
			report_release_failure(keys_.front(), failure);
		}
		forget();
	}

	/// As end(), but of one level.
	void
	end_level() noexcept
	{
		unsigned kept = depth_ > 0 ? depth_ - 1 : 0;

		if (kept == 0)
			return end(false);
		try
		{
			roll_back_if(transaction_status::failed);
			give_back();
		}
		catch (const std::exception &failure)
		{
			report_release_failure(keys_.front(), failure);
		}
		depth_ = std::min(depth_, kept);
	}

	/// The levels held, as far as that can be known without a round trip.
	[[nodiscard]] unsigned
	depth() const noexcept
	{
		if (depth_ == 0 || !session_->alive ||
			(scope_ == scope::transaction && connection_.status() == transaction_status::idle))
			return 0;
		return depth_;
	}

	/// The same, but the server is asked where our books may be behind: a transaction may have
	/// ended without our hearing of it.
	[[nodiscard]] unsigned
	checked_depth()
	{
		return checked_depth(connection_);
	}

	/// By another way to the same session: our own may be a transaction object that has ended.
	[[nodiscard]] unsigned
	checked_depth(connection_ref asked)
	{
		const char *values[] = {name().c_str()};

		if (depth_ > 0 && scope_ == scope::transaction &&
			(depth() == 0 || asked.execute("SELECT pglock.held($1::text)", values) != "t"))
			forget();
		return depth();
	}

	/// Asks the server for a number that it knows of a key.
	[[nodiscard]] std::int64_t
	number(const char *text, const key &of)
	{
		const char *values[] = {of.text().c_str()};

		(void)ready();

		reply answer = connection_.execute(text, values);
		std::int64_t parsed = 0;

		if (answer)
			std::from_chars(answer->data(), answer->data() + answer->size(), parsed);
		return parsed;
	}

	[[nodiscard]] bool
	lost() const noexcept
	{
		return !session_->alive || connection_.lost();
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

  private:
	void
	roll_back_if(transaction_status status) const
	{
		if (rollback_on_error_ && session_->alive && connection_.status() == status)
			connection_.rollback();
	}

	[[nodiscard]] const std::string &
	name() const noexcept
	{
		return keys_.front().text();
	}

	transaction_status
	ready() const
	{
		if (!session_->alive)
			throw connection_lost("the connection of lock \"" + name() + "\" is closed");
		return check_not_busy();
	}

	transaction_status
	check_not_busy() const
	{
		transaction_status status = connection_.status();

		if (status == transaction_status::busy)
			throw error("the connection of lock \"" + name() + "\" is busy with another command");
		return status;
	}

	/// Sessions may take a lock again and again, so the server would grant what our objects hold
	/// already. Among themselves they exclude each other.
	void
	check_conflicts(const key &wanted)
	{
		std::vector<hold *> others;
		auto [first, last] = session_->holds.equal_range(wanted.text());

		// asking one may change the table
		for (; first != last; ++first)
			if (first->second != this && (!shared_ || !first->second->shared_))
				others.push_back(first->second);
		for (hold *other : others)
			if (other->checked_depth(connection_) > 0)
				throw_would_deadlock(wanted);
	}

	[[nodiscard]] bool
	ask(const wait_time &time, transaction_status status)
	{
		std::string timeout =
			interval_text(std::max(time.value_or(milliseconds(0)), milliseconds(0)));
		const char *limit = time ? timeout.c_str() : nullptr;
		const char *shared = shared_ ? "t" : "f";
		const char *scope = scope_ == scope::session ? "session" : "transaction";

		if (keys_.size() > 1)
		{
			const char *values[] = {array_.c_str(), limit, shared, scope};
			return run(acquire_all_statement, values) == "t";
		}
		if (time && *time <= milliseconds(0))
		{
			const char *values[] = {name().c_str(), shared, scope};
			return run(try_statement, values) == "t";
		}
		if (scope_ == scope::session && status == transaction_status::idle)
			return lock_without_snapshot(limit, shared);

		const char *values[] = {name().c_str(), limit, shared, scope};
		return run(acquire_statement, values) == "t";
	}

	/// Outside a transaction block CALL pglock.lock() waits without a snapshot, and raises what
	/// acquire answers.
	[[nodiscard]] bool
	lock_without_snapshot(const char *limit, const char *shared)
	{
		const char *values[] = {name().c_str(), limit, shared};

		if (limit == nullptr && !shared_)
		{
			(void)run(lock_statement, parameters(values).first(1));
			return true;
		}
		try
		{
			(void)run(lock_in_time_statement, values);
			return true;
		}
		catch (const error &failure)
		{
			if (!is_own_timeout(failure))
				throw;
			return false;
		}
	}

	[[nodiscard]] reply
	release()
	{
		const char *values[] = {keys_.size() > 1 ? array_.c_str() : name().c_str(),
								shared_ ? "t" : "f"};

		if (keys_.size() > 1)
			return run(release_each_statement, values);
		return run(shared_ ? release_shared_statement : release_statement,
				   parameters(values).first(1));
	}

	[[nodiscard]] reply
	run(const statement &what, parameters values)
	{
		return detail::run(connection_, *session_, statements_, what, values);
	}

	/// Before the lock is taken, as there may be no memory.
	void
	enter()
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

	void
	forget() noexcept
	{
		if (depth_ > 0)
			leave();
		depth_ = 0;
	}

	connection_ref connection_;
	std::shared_ptr<session> session_;
	std::vector<key> keys_;
	std::string array_;
	scope scope_;
	bool shared_;
	bool rollback_on_error_;
	statements statements_;
	unsigned depth_ = 0;
};
} // namespace pglock::detail
