// cluster_server.hpp: a connection that says which server of a cluster it has lost.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "../connection.hpp"
#include "../error.hpp"

namespace pglock::detail
{
[[noreturn]] inline void
throw_server_lost(std::size_t number, const std::string &host, const std::string &message,
				  std::string_view sqlstate = {})
{
	throw server_lost(number,
					  "server " + std::to_string(number) + (host.empty() ? "" : " (" + host + ")") +
						  ": " + message,
					  sqlstate);
}

/// Passes everything on to the connection, and makes `connection_lost` a `server_lost`. In this way
/// connections that are of no cluster pay nothing for those that are.
class cluster_server
{
  public:
	cluster_server(connection_ref connection, std::size_t number)
		: connection_(std::move(connection)), number_(number), host_(connection_.host()),
		  operations_(*connection_.operations_)
	{
		pass_on<&operations::execute, &operations::status, &operations::rollback, &operations::lost,
				&operations::close, &operations::keep_alive, &operations::control,
				&operations::socket, &operations::default_scope, &operations::host,
				&operations::session_of, &operations::prepare, &operations::execute_prepared>();
	}

	cluster_server(const cluster_server &) = delete;
	cluster_server &operator=(const cluster_server &) = delete;

	/// The connection as that of the server with that number. It keeps what the connection keeps.
	[[nodiscard]] static connection_ref
	number(connection_ref connection, std::size_t number)
	{
		auto server = std::make_shared<cluster_server>(std::move(connection), number);
		connection_ref made(server.get(), &server->operations_);

		made.owner_ = std::move(server);
		return made;
	}

  private:
	/// All that there are; what the connection can't do stays null.
	template <auto... Operations>
	void
	pass_on()
	{
		static_assert(sizeof...(Operations) * sizeof(void (*)()) == sizeof(operations));
		((operations_.*Operations = operations_.*Operations != nullptr
										? passing<Operations>(operations_.*Operations)
										: nullptr),
		 ...);
	}

	/// An operation in place of that one. The types come from its declaration.
	template <auto Operation, typename Result, typename... Arguments>
	[[nodiscard]] static auto
	passing(Result (*)(void *, Arguments...))
	{
		return +[](void *server, Arguments... arguments) -> Result {
			const auto &self = *static_cast<const cluster_server *>(server);

			try
			{
				return (self.connection_.operations_->*Operation)(self.connection_.connection_,
																  arguments...);
			}
			catch (const connection_lost &failure)
			{
				self.throw_lost(failure);
			}
		};
	}

	template <auto Operation, typename Result, typename... Arguments>
	[[nodiscard]] static auto
	passing(Result (*)(void *, Arguments...) noexcept)
	{
		return +[](void *server, Arguments... arguments) noexcept -> Result {
			const auto &self = *static_cast<const cluster_server *>(server);

			return (self.connection_.operations_->*Operation)(self.connection_.connection_,
															  arguments...);
		};
	}

	[[noreturn]] void
	throw_lost(const connection_lost &failure) const
	{
		// libpq may have opened it anew elsewhere, and others have forgotten by now
		std::string known = connection_.host();

		throw_server_lost(number_, known.empty() ? host_ : known, failure.what(),
						  failure.sqlstate());
	}

	connection_ref connection_;
	std::size_t number_;
	/// where it was at first
	std::string host_;
	operations operations_;
};
} // namespace pglock::detail
