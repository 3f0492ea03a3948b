// session.hpp: what is remembered of a session as long as its connection lives.
#pragma once

#include <atomic>
#include <bitset>
#include <cstddef>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#if __has_include(<unistd.h>)
#include <unistd.h>
#endif
#if defined(__GLIBC__)
#include <pthread.h>
#endif

namespace pglock
{
namespace detail
{
class hold;
class session_end;

#if defined(__GLIBC__)
/// The process, as the system has said, and says again in each child; 0: not yet. getpid() is a
/// system call, and this is asked several times for each lock. A child made by vfork() or clone()
/// must not use locks anyway.
inline std::atomic<long> known_process = 0;

inline long
learn_process() noexcept
{
	static const bool is_told =
		pthread_atfork(nullptr, nullptr, [] { known_process = getpid(); }) == 0;

	if (is_told)
		known_process = getpid();
	return getpid();
}
#endif

/// 0 where processes don't fork.
[[nodiscard]] inline long
process_id() noexcept
{
#if defined(__GLIBC__)
	long known = known_process.load(std::memory_order_relaxed);

	return known != 0 ? known : learn_process();
#elif __has_include(<unistd.h>)
	return getpid();
#else
	return 0;
#endif
}

/// One level of a session lock, or a slot, whose object has ended without being able to release it.
struct owed_release
{
	std::string key;
	bool shared;
	/// The number of a slot; empty for a lock.
	std::string slot = {};
};

/// Belongs to the thread that its connection belongs to.
struct session
{
	/// False: it has ended, and its locks with it. Its connection must not be touched.
	bool alive = true;

	/// The one that its connection has got instead of it. Null: none, also once the connection is
	/// gone.
	std::shared_ptr<session> next;

	/// The only process that may use it. A fork copies this object, not the session.
	long process = process_id();

	/// What is to be released before anything else is asked of the server.
	std::deque<owed_release> owed;

	/// How many transactions are known to have ended.
	unsigned ended_transactions = 0;

	/// A command has failed or rolled back, maybe to a savepoint only, maybe all.
	bool may_have_rolled_back = false;

	/// Who has a socket of the connection beside its library's is told of that end.
	std::list<session_end *> on_end;

	/// Which statements the server has been given to prepare, by their index.
	std::bitset<24> prepared;

	/// How often a prepared statement was not what it should be.
	unsigned troubles = 0;

	/// What our objects hold, by the text of the key, which is the hold's own.
	std::unordered_multimap<std::string_view, hold *> holds;

	[[nodiscard]] bool
	is_ours() const noexcept
	{
		return process == process_id();
	}

	/// Follows transactions and prepared statements by the tags of commands. A transaction that
	/// begins tells that the one before has ended.
	void
	command_ended(bool succeeded, std::string_view tag) noexcept
	{
		// what most commands are, changes nothing
		if (succeeded && (tag == "CALL" || tag.starts_with("SELECT ")))
			return;

		bool begins = tag == "BEGIN" || tag == "START TRANSACTION";

		if (tag == "COMMIT" || tag == "PREPARE TRANSACTION" || (begins && may_have_rolled_back))
		{
			ended_transactions++;
			may_have_rolled_back = false;
		}
		else if (!succeeded || tag == "ROLLBACK")
			may_have_rolled_back = true;
		else if (tag == "DISCARD ALL" || tag == "DEALLOCATE ALL")
			prepared.reset();
	}

	void end();
};

/// Has the end of a session told to somebody, as long as this is there.
class session_end
{
  public:
	session_end(std::shared_ptr<session> of, std::function<void()> told)
		: of_(std::move(of)), told_(std::move(told)),
		  position_(of_->on_end.insert(of_->on_end.end(), this))
	{
	}

	session_end(const session_end &) = delete;
	session_end &operator=(const session_end &) = delete;

	~session_end()
	{
		if (told_)
			of_->on_end.erase(position_);
	}

	/// For the session, which has forgotten it. What is called may end this.
	void
	tell()
	{
		std::exchange(told_, {})();
	}

  private:
	std::shared_ptr<session> of_;
	/// empty: it has been told
	std::function<void()> told_;
	std::list<session_end *>::iterator position_;
};

/// Who is told may end others who would be.
inline void
session::end()
{
	alive = false;
	while (!on_end.empty())
	{
		session_end *told = on_end.front();

		on_end.pop_front();
		told->tell();
	}
}

/// The sessions of connections that have no `session_memory`. One that no lock object uses and that
/// owes nothing is only kept for what it has prepared, and goes when the table has doubled.
class session_table
{
  public:
	std::shared_ptr<session>
	find(const void *address)
	{
		std::lock_guard guard(mutex_);
		auto found = sessions_.find(address);

		if (found != sessions_.end())
			return found->second;
		if (sessions_.size() >= limit_)
		{
			std::erase_if(sessions_, [](const auto &entry) {
				return entry.second.use_count() == 1 && entry.second->owed.empty();
			});
			limit_ = smallest_limit + 2 * sessions_.size();
		}
		return sessions_.emplace(address, std::make_shared<session>()).first->second;
	}

	[[nodiscard]] std::size_t
	size()
	{
		std::lock_guard guard(mutex_);

		return sessions_.size();
	}

  private:
	static constexpr std::size_t smallest_limit = 64;

	std::mutex mutex_;
	std::unordered_map<const void *, std::shared_ptr<session>> sessions_;
	std::size_t limit_ = smallest_limit;
};

/// One in the program, though its shared objects hide their symbols.
[[gnu::visibility("default")]] inline session_table sessions;
} // namespace detail

/// What locks remember of one session: a member for connection types of your own. When it goes,
/// lock objects that are still there know that they hold nothing, and leave the connection alone.
/// In a process that was forked from the one that made it no lock can be taken.
class session_memory
{
  public:
	session_memory() = default;
	session_memory(const session_memory &) = delete;
	session_memory &operator=(const session_memory &) = delete;

	~session_memory()
	{
		session_->end();
	}

	/// The connection has got a new session.
	void
	renew()
	{
		auto next = std::make_shared<detail::session>();

		session_->next = next;
		session_->end();
		session_ = std::move(next);
	}

	/// For the library itself.
	[[nodiscard]] const std::shared_ptr<detail::session> &
	session() const noexcept
	{
		return session_;
	}

  private:
	std::shared_ptr<detail::session> session_ = std::make_shared<detail::session>();
};
} // namespace pglock
