// Locks that don't wait in the thread, on the connection of a program that uses libpqxx: from 7 on
// that takes over one of libpq, of which the program keeps the pointer.
#include <libpq-fe.h>
#include <pqxx/pqxx>
#include <string>

#include "async.hpp"

namespace
{
template <typename Connection>
concept takes_over = requires(PGconn *connection)
{
	Connection::seize_raw_connection(connection);
};

class AsyncPqxx : public async::Async
{
  protected:
	template <typename Connection>
	void
	share_connection()
	{
		if constexpr (!takes_over<Connection>)
			GTEST_SKIP() << "this libpqxx takes over no connection";
		else
		{
			PGconn *raw = PQconnectdb("");
			auto connection = Connection::seize_raw_connection(raw);
			pglock::async_lock lock(context, raw, "shared");

			EXPECT_EQ(acquire(lock), "true");
			{
				pqxx::work transaction(connection);

				EXPECT_EQ(transaction.exec("SELECT pglock.held('shared')")[0][0].c_str(),
						  std::string("t"));
				transaction.commit();
			}
			EXPECT_EQ(release(lock), "true");
			EXPECT_TRUE(server::is_free("shared"));
		}
	}
};
} // namespace

TEST_F(AsyncPqxx, SharesAConnectionThatItTakesOver)
{
	share_connection<pqxx::connection>();
}
