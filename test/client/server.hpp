// server.hpp: sessions of a real server, over libpq and over libpqxx, with the same face.
#pragma once

#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>

#include <gtest/gtest.h>
#include <libpq-fe.h>
#include <postgres_lock/libpq.hpp>
#include <postgres_lock/pqxx.hpp>

#include "soon.hpp"

namespace server
{
using namespace std::chrono_literals;

/// A session over libpq. libpq's environment says of which server.
class libpq_session
{
  public:
	explicit libpq_session(const char *parameters = "") : connection_(PQconnectdb(parameters))
	{
		if (PQstatus(get()) != CONNECTION_OK)
			throw std::runtime_error(PQerrorMessage(get()));
		PQsetNoticeProcessor(
			get(), [](void *, const char *) {}, nullptr);
	}

	[[nodiscard]] PGconn *
	get() const noexcept
	{
		return connection_.get();
	}

	/// What locks are given.
	[[nodiscard]] pglock::connection_ref
	ref() const
	{
		return get();
	}

	/// The first value of what a statement answers.
	std::string
	query(const std::string &sql)
	{
		return ref().execute(sql.c_str()).value_or("");
	}

	void
	begin()
	{
		query("BEGIN");
	}

	void
	commit()
	{
		query("COMMIT");
	}

	void
	rollback()
	{
		query("ROLLBACK");
	}

	void
	close() noexcept
	{
		connection_.reset();
	}

  private:
	struct finish
	{
		void
		operator()(PGconn *connection) const noexcept
		{
			PQfinish(connection);
		}
	};

	std::unique_ptr<PGconn, finish> connection_;
};

/// A session over libpqxx: between begin() and commit() of its transaction object.
class pqxx_session
{
  public:
	/// The transaction if there is one, otherwise the connection.
	[[nodiscard]] pglock::connection_ref
	ref()
	{
		if (transaction_)
			return *transaction_;
		return connection_;
	}

	std::string
	query(const std::string &sql)
	{
		return ref().execute(sql.c_str()).value_or("");
	}

	void
	begin()
	{
		transaction_.reset();
		transaction_ = std::make_unique<pqxx::work>(connection_);
	}

	void
	commit()
	{
		transaction_->commit();
		transaction_.reset();
	}

	void
	rollback()
	{
		transaction_.reset();
	}

	[[nodiscard]] pqxx::connection &
	get() noexcept
	{
		return connection_;
	}

  private:
	pqxx::connection connection_;
	std::unique_ptr<pqxx::work> transaction_;
};

/// How often work waits for the server: each time that an answer follows something sent.
[[nodiscard]] inline long
round_trips(const libpq_session &session, const std::function<void()> &work)
{
	std::unique_ptr<FILE, int (*)(FILE *)> file(std::tmpfile(), std::fclose);
	char line[256];
	char previous = 'B';
	long count = 0;

	PQtrace(session.get(), file.get());
	PQsetTraceFlags(session.get(), PQTRACE_SUPPRESS_TIMESTAMPS | PQTRACE_REGRESS_MODE);
	work();
	PQuntrace(session.get());
	std::rewind(file.get());
	// a message is a line that begins with who sends it: F is us, B the server
	while (std::fgets(line, sizeof line, file.get()) != nullptr)
	{
		count += line[0] == 'B' && previous == 'F';
		previous = line[0];
	}
	return count;
}

using ::soon;

/// Waits until an SQL condition is true.
inline void
wait_for(const std::string &condition)
{
	libpq_session watcher;

	if (!soon([&] { return watcher.query("SELECT " + condition) == "t"; }))
		throw std::runtime_error("waited in vain for " + condition);
}

/// Waits until sessions wait for advisory locks.
inline void
wait_for_waiters(int count = 1)
{
	wait_for("count(*) = " + std::to_string(count) +
			 " FROM pg_locks WHERE locktype = 'advisory' AND NOT granted");
}

[[nodiscard]] inline std::string
pid_of(auto &session)
{
	return session.query("SELECT pg_backend_pid()");
}

/// Ends a session from outside, and waits until it has ended.
inline void
terminate(const std::string &pid)
{
	libpq_session().query("SELECT pg_terminate_backend(" + pid + ")");
	wait_for("NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = " + pid + ")");
}

[[nodiscard]] inline bool
is_free(const std::string &key)
{
	return libpq_session().query("SELECT pglock.is_free('" + key + "')") == "t";
}

/// One way to hold a lock: over a library, at a scope.
template <typename Session, pglock::scope Scope> struct way
{
	using session = Session;
	static constexpr pglock::scope scope = Scope;
};

using ways = testing::Types<
	way<libpq_session, pglock::scope::session>, way<libpq_session, pglock::scope::transaction>,
	way<pqxx_session, pglock::scope::session>, way<pqxx_session, pglock::scope::transaction>>;

/// At transaction scope nothing is released by hand.
using ways_to_release = testing::Types<way<libpq_session, pglock::scope::session>,
									   way<pqxx_session, pglock::scope::session>>;

struct way_names
{
	template <typename Way>
	static std::string
	GetName(int)
	{
		return std::string(std::is_same_v<typename Way::session, pqxx_session> ? "pqxx" : "libpq") +
			   (Way::scope == pglock::scope::session ? "_session" : "_transaction");
	}
};

/// Tests of one behaviour in every way.
template <typename Way> class Behaviour : public testing::Test
{
  protected:
	using session = typename Way::session;
	static constexpr bool at_session_scope = Way::scope == pglock::scope::session;

	/// A session where locks of the scope can be taken.
	struct place : session
	{
		place()
		{
			if (!at_session_scope)
				this->begin();
		}

		/// The end of a hold at transaction scope.
		void
		finish()
		{
			if (at_session_scope)
				return;
			this->commit();
			this->begin();
		}
	};

	[[nodiscard]] static pglock::options
	with(pglock::options options = {})
	{
		options.scope = Way::scope;
		return options;
	}

	/// A thread that waits for the lock, and what came of it.
	class waiter
	{
	  public:
		explicit waiter(const std::string &key, const pglock::options &options = with())
			: lock_(place_.ref(), key, options), pid_(pid_of(place_)), thread_([this] {
				  try
				  {
					  outcome_ = lock_.acquire() ? "held" : "late";
				  }
				  catch (const pglock::connection_lost &)
				  {
					  outcome_ = "lost";
				  }
				  catch (const pglock::error &error)
				  {
					  outcome_ = error.sqlstate();
				  }
			  })
		{
		}

		~waiter()
		{
			outcome();
		}

		std::string
		outcome()
		{
			if (thread_.joinable())
				thread_.join();
			return outcome_;
		}

		[[nodiscard]] const std::string &
		pid() const noexcept
		{
			return pid_;
		}

		place &
		at() noexcept
		{
			return place_;
		}

		pglock::lock &
		lock() noexcept
		{
			return lock_;
		}

	  private:
		place place_;
		pglock::lock lock_;
		std::string pid_;
		std::string outcome_;
		std::thread thread_;
	};
};
} // namespace server
