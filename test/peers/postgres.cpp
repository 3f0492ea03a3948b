// postgres.cpp: the locks of PostgreSQL itself, and those of this project.
#include <array>
#include <optional>
#include <span>
#include <vector>

#include <postgres_lock/critical_section.hpp>
#include <postgres_lock/lease.hpp>
#include <postgres_lock/libpq.hpp>

#include "peers.hpp"
#include "row.hpp"

namespace
{
/// Two prepared statements, over the connection that the row has.
class statements_client final : public outside_client
{
  public:
	statements_client(const places &places, const char *acquire, const char *release)
		: outside_client(places)
	{
		own_row().prepare({{"acquire", acquire}, {"release", release}});
	}

  protected:
	void
	acquire(const std::string &key) override
	{
		own_row().execute("acquire", key);
	}

	void
	release(const std::string &key) override
	{
		if (own_row().execute("release", key) != "t")
			throw std::runtime_error("a lock was not held any more");
	}
};

class guard_client final : public outside_client
{
  public:
	using outside_client::outside_client;

  protected:
	void
	acquire(const std::string &key) override
	{
		guard_.emplace(own_row().get(), key);
	}

	void
	release(const std::string &) override
	{
		guard_->unlock();
		guard_.reset();
	}

  private:
	std::optional<pglock::guard> guard_;
};

class lease_client final : public outside_client
{
  public:
	using outside_client::outside_client;

  protected:
	void
	acquire(const std::string &key) override
	{
		lease_.emplace(own_row().get(), key);
	}

	void
	release(const std::string &) override
	{
		lease_->release();
		lease_.reset();
	}

  private:
	std::optional<pglock::lease_guard> lease_;
};

std::vector<pglock::query>
queries(work work, const std::string &key)
{
	switch (work)
	{
		case work::update:
			return {pglock::query::prepared("update", {key})};
		case work::read_and_write:
			return {pglock::query::prepared("read", {key}),
					pglock::query::prepared("write", {key})};
		case work::nothing:
			break;
	}
	throw std::invalid_argument("a critical section needs statements");
}

/// Only the server knows when the lock is held.
class section_client final : public client
{
  public:
	explicit section_client(const places &places) : row_(places)
	{
	}

	void
	cycle(const std::string &key, work work, witness &) override
	{
		pglock::critical_section(row_.get(), key, {}, queries(work, key));
	}

  private:
	row row_;
};

/// The transaction that works checks the lease.
class checked_lease_client final : public client
{
  public:
	explicit checked_lease_client(const places &places) : row_(places)
	{
	}

	void
	cycle(const std::string &key, work work, witness &witness) override
	{
		pglock::lease_guard guard(row_.get(), key);

		witness.acquired();
		pglock::critical_section(row_.get(), guard.lease(), queries(work, key));
		witness.releasing();
		guard.release();
	}

  private:
	row row_;
};

/// Locks nothing, so that it can be seen that this is noticed.
class lockless_client final : public outside_client
{
  public:
	using outside_client::outside_client;

  protected:
	void
	acquire(const std::string &) override
	{
	}

	void
	release(const std::string &) override
	{
	}
};

template <typename Client, typename... Rest>
auto
connects(Rest... rest)
{
	return [rest...](const places &places) -> std::unique_ptr<client> {
		return std::make_unique<Client>(places, rest...);
	};
}
} // namespace

std::vector<peer>
postgres_peers()
{
	return {
		{"built-in", false,
		 connects<statements_client>("SELECT pg_advisory_lock(hashtextextended($1, 0))",
									 "SELECT pg_advisory_unlock(hashtextextended($1, 0))")},
		{"SQL functions", false,
		 connects<statements_client>("SELECT pglock.acquire($1)", "SELECT pglock.release($1)")},
		{"guard", false, connects<guard_client>()},
		{"critical section", true, connects<section_client>()},
		{"lease", false, connects<lease_client>()},
		{"lease, checked", true, connects<checked_lease_client>()},
	};
}

peer
no_lock()
{
	return {"no lock", false, connects<lockless_client>()};
}
