// Prepared statements behind a pooler that gives each transaction one of two sessions: libpq's
// environment leads there.
#include "pool.hpp"
#include "server.hpp"

namespace
{
using namespace std::chrono_literals;
using server::libpq_session;

std::string
prepared_here(libpq_session &client)
{
	return client.query("SELECT count(*) FROM pg_prepared_statements "
						"WHERE name IN ('pglock_try_1', 'pglock_release_1')");
}

void
expect_works(pglock::lock &lock)
{
	EXPECT_TRUE(lock.try_acquire());
	EXPECT_TRUE(lock.locked());
	lock.release();
	EXPECT_FALSE(lock.locked());
}

// more often than it takes to do without prepared statements
TEST(pooler, statements_are_prepared_again_in_another_session)
{
	narrow_pool pool;
	libpq_session client;
	pglock::lock lock(client.get(), "moving");

	expect_works(lock);
	EXPECT_EQ(prepared_here(client), "2");
	pool.change_session();
	EXPECT_EQ(prepared_here(client), "0");
	for (int i = 0; i < 8; i++)
	{
		expect_works(lock);
		pool.change_session();
	}
}

TEST(pooler, statements_of_another_client_are_used)
{
	narrow_pool pool;
	libpq_session first, second;
	pglock::lock lock(first.get(), "common"), same(second.get(), "common");

	expect_works(lock);
	EXPECT_NE(prepared_here(second), "0");
	expect_works(same);
	expect_works(lock);
}

TEST(pooler, nothing_is_prepared_in_a_transaction)
{
	narrow_pool pool;
	libpq_session client;

	for (int i = 0; i < 4; i++)
	{
		client.begin();
		{
			pglock::guard guard(client.get(), "in a transaction",
								{.scope = pglock::scope::transaction});
		}
		client.commit();
		pool.change_session();
	}
}

TEST(pooler, unless_it_is_asked_for)
{
	narrow_pool pool;
	libpq_session client;
	pglock::lock lock(client.get(), "asked for",
					  {.scope = pglock::scope::transaction,
					   .statements = pglock::statements::prepared});

	client.begin();
	EXPECT_TRUE(lock.acquire(1s));
	client.commit();
	pool.change_session();
	client.begin();
	try
	{
		(void)lock.acquire(1s);
		ADD_FAILURE() << "the other session knows the statement";
	}
	catch (const pglock::error &error)
	{
		EXPECT_EQ(error.sqlstate(), "26000");
	}
	client.rollback();
}

// PgBouncer from 1.21 on, if it is to: it prepares statements itself, in whatever session it has
TEST(preparing_pooler, statements_are_there_in_every_session)
{
	narrow_pool pool;
	libpq_session client;
	pglock::lock outside(client.get(), "moving"),
		inside(client.get(), "asked for",
			   {.scope = pglock::scope::transaction, .statements = pglock::statements::prepared});

	for (int i = 0; i < 8; i++)
	{
		expect_works(outside);
		client.begin();
		EXPECT_TRUE(inside.acquire(1s));
		client.commit();
		EXPECT_EQ(prepared_here(client), "0");
		EXPECT_NE(client.query("SELECT count(*) FROM pg_prepared_statements"), "0");
		pool.change_session();
	}
}
} // namespace
