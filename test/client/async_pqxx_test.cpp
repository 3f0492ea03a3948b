// Locks that don't wait in the thread, on the connection of a program that uses libpqxx: one of
// libpq, which libpqxx has taken over, and of which the program has kept the pointer.
#include <pqxx/pqxx>

// those before have no way to do so
#if PQXX_VERSION_MAJOR > 7 || (PQXX_VERSION_MAJOR == 7 && PQXX_VERSION_MINOR >= 10)
#include <libpq-fe.h>
#include <string>

#include "async.hpp"

namespace
{
class AsyncPqxx : public async::Async
{
};
} // namespace

TEST_F(AsyncPqxx, SharesAConnectionThatItTakesOver)
{
	PGconn *raw = PQconnectdb("");
	auto connection = pqxx::connection::seize_raw_connection(raw);
	pglock::async_lock lock(context, raw, "shared");

	EXPECT_EQ(acquire(lock), "true");
	{
		pqxx::work transaction(connection);

		EXPECT_EQ(transaction.exec("SELECT pglock.held('shared')")[0][0].c_str(), std::string("t"));
		transaction.commit();
	}
	EXPECT_EQ(release(lock), "true");
	EXPECT_TRUE(server::is_free("shared"));
}
#endif
