// async_connect.hpp: makes a connection like another one, without waiting for it in the thread.
#pragma once

#include "asio_library.hpp"

#if defined(POSTGRES_LOCK_HAS_CO_AWAIT)
#include <chrono>
#include <libpq-fe.h>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "../error.hpp"
#include "channel.hpp"

namespace pglock::detail
{
using connection_ptr = std::unique_ptr<PGconn, decltype(&PQfinish)>;

/// What a connection was made with.
class connection_parameters
{
  public:
	explicit connection_parameters(PGconn &of)
	{
		std::unique_ptr<PQconninfoOption, decltype(&PQconninfoFree)> all(PQconninfo(&of),
																		 PQconninfoFree);

		if (!all)
			throw std::bad_alloc();
		for (const PQconninfoOption *each = all.get(); each->keyword != nullptr; each++)
			if (each->val != nullptr)
				given_.emplace_back(each->keyword, each->val);
	}

	/// Begins to make another one, whose notices go nowhere.
	[[nodiscard]] connection_ptr
	start() const
	{
		std::vector<const char *> names;
		std::vector<const char *> values;

		for (const auto &[name, value] : given_)
		{
			names.push_back(name.c_str());
			values.push_back(value.c_str());
		}
		names.push_back(nullptr);
		values.push_back(nullptr);

		connection_ptr made(PQconnectStartParams(names.data(), values.data(), 0), PQfinish);

		if (!made)
			throw std::bad_alloc();
		PQsetNoticeProcessor(
			made.get(), [](void *, const char *) {}, nullptr);
		return made;
	}

  private:
	std::vector<std::pair<std::string, std::string>> given_;
};

/// Only the resolution of names waits in the thread, which is libpq's. Throws `connection_lost` if
/// there is no connection by then.
inline asio::awaitable<connection_ptr>
async_connect(const connection_parameters &with, std::chrono::steady_clock::time_point until)
{
	auto executor = co_await asio::this_coro::executor;
	auto socket = std::make_shared<asio::posix::stream_descriptor>(executor);
	asio::steady_timer limit(executor, until);
	connection_ptr made = with.start();
	PostgresPollingStatusType next =
		PQstatus(made.get()) == CONNECTION_BAD ? PGRES_POLLING_FAILED : PGRES_POLLING_WRITING;

	limit.async_wait([socket](error_code failure) {
		error_code ignored;

		if (!failure)
			socket->cancel(ignored);
	});
	while (next != PGRES_POLLING_OK)
	{
		error_code ignored;

		if (next == PGRES_POLLING_FAILED)
			throw connection_lost(PQerrorMessage(made.get()));
		assign_duplicate(*socket, *made);
		co_await socket->async_wait(next == PGRES_POLLING_READING
										? asio::posix::stream_descriptor::wait_read
										: asio::posix::stream_descriptor::wait_write,
									asio::redirect_error(asio::use_awaitable, ignored));
		socket->close(ignored);
		if (std::chrono::steady_clock::now() >= until)
			throw connection_lost("the server has not accepted a connection in time");
		next = PQconnectPoll(made.get());
	}
	co_return made;
}
} // namespace pglock::detail
#endif
