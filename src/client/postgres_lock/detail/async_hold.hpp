// async_hold.hpp: a hold whose operations don't wait in the thread.
#pragma once

#include <libpq-fe.h>
#include <memory>
#include <utility>
#include <vector>

#include "../key.hpp"
#include "../options.hpp"
#include "asio_library.hpp"
#include "async_connection.hpp"
#include "blocking_hold.hpp"
#include "keys.hpp"
#include "request.hpp"

namespace pglock::detail
{
/// A hold and its connection.
struct async_hold : async_connection
{
	async_hold(asio::any_io_executor executor, PGconn *connection, std::vector<key> keys,
			   const options &options, slot_count slots)
		: async_connection(std::move(executor), connection, options.statements),
		  hold(connection, std::move(keys), options, slots), timeout(options.timeout)
	{
		keep_alive = options.keep_alive;
	}

	blocking_hold hold;
	wait_time timeout;

  private:
	void
	release(bool by_error) noexcept override
	{
		hold.end(by_error);
	}
};

/// Throws `std::invalid_argument` for a null connection.
[[nodiscard]] inline std::shared_ptr<async_hold>
make_async_hold(asio::any_io_executor executor, PGconn *connection, std::vector<key> keys,
				const options &options, slot_count slots = {})
{
	return std::make_shared<async_hold>(std::move(executor), connection, std::move(keys), options,
										slots);
}
} // namespace pglock::detail
