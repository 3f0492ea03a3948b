// connection.hpp: what the locks need of a connection, whatever library it belongs to.
#pragma once

#include <chrono>
#include <concepts>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>

#include "detail/session.hpp"
#include "error.hpp"
#include "options.hpp"

namespace pglock
{
/// What a connection is in the midst of.
enum class transaction_status : unsigned char {
	/// No transaction block.
	idle,
	/// A transaction block that can go on.
	open,
	/// A transaction block that an error has ended: it can only be rolled back.
	failed,
	/// A command that has not ended, so that none can be sent.
	busy,
};

/// Parameters of a command in PostgreSQL's text format. A null pointer is NULL.
using parameters = std::span<const char *const>;

/// What a command answered: the first value of its first row. Nothing if there is no row, or NULL.
using reply = std::optional<std::string>;

/// What another thread may do while a command is under way on a connection.
struct command_control
{
	/// Asks the server to cancel the command.
	std::function<void()> cancel;
	/// Closes the connection under its owner, who hears of that as if the network had failed.
	std::function<void()> hang_up;
};

/// By when a command has to be answered. Nothing: whenever.
using deadline = std::optional<std::chrono::steady_clock::time_point>;

/// The customization point: what locks need of a connection of the type `T`. Specialize it for a
/// type of your own, with these static member functions. (`postgres_lock/libpq.hpp` and `pqxx.hpp`
/// do so.)
///
/// `reply execute(T &, const char *text, parameters)`: runs one command, with `$1` and so on for
/// its parameters, in one round trip, and waits for the answer. What goes wrong it throws as
/// `pglock::error` or one of its kind, with the SQLSTATE and the server's message: `throw_error()`
/// helps. It does not retry.
///
/// `transaction_status status(T &) noexcept`: without a round trip.
///
/// `void rollback(T &)`: rolls back the whole open transaction.
///
/// And if you like:
///
/// `bool lost(T &) noexcept`: is the connection known to be dead? Without a round trip. Otherwise
/// no.
///
/// `void close(T &) noexcept`: closes the connection, so that the server ends the session. The
/// object stays, and says that it is lost. Asked for when the server has refused to release a lock
/// whose object has ended. Otherwise the session keeps that until the library can release it.
///
/// `void keep_alive(T &) noexcept`: sends the server something that it does not answer, if the
/// connection is idle. See `pglock::keep_alive()`.
///
/// `command_control control(T &)`: for another thread, which ends a wait when stop is requested,
/// see `options::stop`. Otherwise locks on the connection refuse that option.
///
/// `int socket(T &) noexcept`: the socket of the connection, whose end tells of that of the
/// session, see `guard::stop_token()`. Otherwise locks on the connection refuse that. It is not
/// read from.
///
/// `scope default_scope(T &) noexcept`: otherwise `scope::session`.
///
/// `session_memory &memory(T &)`: a member of the connection. It lets locks know when the
/// connection goes, and is where they remember what they have prepared. Otherwise a table of the
/// library does.
///
/// `std::string host(T &)`: where the server is, for messages. Otherwise they don't say.
///
/// `const void *session(T &) noexcept`: for that table, an address that stands for the session,
/// where several objects use one. Otherwise the object's own.
///
/// `void prepare(T &, const char *name, const char *text)` and
/// `reply execute_prepared(T &, const char *name, parameters)`: both or none. Without them nothing
/// is prepared.
///
/// `execute`, `rollback`, `prepare` and `execute_prepared` with one parameter more, a
/// `const deadline &`: all or none. If there is no answer by then, they close the connection and
/// throw `connection_lost`. Without it a server that does not answer is waited for.
template <typename T> struct connection_traits
{
};

/// Does `Traits` have what locks need of a `T`?
template <typename Traits, typename T>
concept connection_interface = requires(T &connection, const char *text, parameters values)
{
	{
		Traits::execute(connection, text, values)
		} -> std::same_as<reply>;
	{
		Traits::status(connection)
	}
	noexcept->std::same_as<transaction_status>;
	Traits::rollback(connection);
};

namespace detail
{
inline constexpr const char *no_answer_text =
	"the server has not answered in time, so the connection has been closed";

template <typename Traits, typename T>
concept tells_loss = requires(T &connection)
{
	{
		Traits::lost(connection)
	}
	noexcept->std::same_as<bool>;
};

template <typename Traits, typename T>
concept can_close = requires(T &connection)
{
	{
		Traits::close(connection)
	}
	noexcept;
};

template <typename Traits, typename T>
concept can_keep_alive = requires(T &connection)
{
	{
		Traits::keep_alive(connection)
	}
	noexcept;
};

template <typename Traits, typename T>
concept has_control = requires(T &connection)
{
	{
		Traits::control(connection)
		} -> std::same_as<command_control>;
};

template <typename Traits, typename T>
concept has_socket = requires(T &connection)
{
	{
		Traits::socket(connection)
	}
	noexcept->std::same_as<int>;
};

template <typename Traits, typename T>
concept has_default_scope = requires(T &connection)
{
	{
		Traits::default_scope(connection)
	}
	noexcept->std::same_as<scope>;
};

template <typename Traits, typename T>
concept tells_host = requires(T &connection)
{
	{
		Traits::host(connection)
		} -> std::same_as<std::string>;
};

template <typename Traits, typename T>
concept has_session = requires(T &connection)
{
	{
		Traits::session(connection)
	}
	noexcept->std::convertible_to<const void *>;
};

template <typename Traits, typename T>
concept has_memory = requires(T &connection)
{
	{
		Traits::memory(connection)
		} -> std::same_as<session_memory &>;
};

template <typename Traits, typename T>
concept can_prepare = requires(T &connection, const char *text, parameters values)
{
	Traits::prepare(connection, text, text);
	{
		Traits::execute_prepared(connection, text, values)
		} -> std::same_as<reply>;
};

template <typename Traits, typename T>
concept has_deadlines = requires(T &connection, const char *text, parameters values,
								 const deadline &until)
{
	{
		Traits::execute(connection, text, values, until)
		} -> std::same_as<reply>;
};

/// The functions of one interface, with the connection's type forgotten.
struct operations
{
	reply (*execute)(void *, const char *text, parameters, const deadline &);
	transaction_status (*status)(void *) noexcept;
	void (*rollback)(void *, const deadline &);
	bool (*lost)(void *) noexcept;
	/// null if the library can't
	void (*close)(void *) noexcept;
	/// null if the library can't
	void (*keep_alive)(void *) noexcept;
	/// null if the library can't
	command_control (*control)(void *);
	/// null if the library can't
	int (*socket)(void *) noexcept;
	scope (*default_scope)(void *) noexcept;
	/// null if that is not known
	std::string (*host)(void *);
	std::shared_ptr<session> (*session_of)(void *);
	/// null if nothing can be prepared
	void (*prepare)(void *, const char *name, const char *text, const deadline &);
	reply (*execute_prepared)(void *, const char *name, parameters, const deadline &);
};

template <typename Traits, typename T>
constexpr operations
make_operations() noexcept
{
	operations made{};

	made.execute = [](void *connection, const char *text, parameters values,
					  [[maybe_unused]] const deadline &until) {
		if constexpr (has_deadlines<Traits, T>)
			return Traits::execute(*static_cast<T *>(connection), text, values, until);
		else
			return Traits::execute(*static_cast<T *>(connection), text, values);
	};
	made.status = [](void *connection) noexcept {
		return Traits::status(*static_cast<T *>(connection));
	};
	made.rollback = [](void *connection, [[maybe_unused]] const deadline &until) {
		if constexpr (has_deadlines<Traits, T>)
			Traits::rollback(*static_cast<T *>(connection), until);
		else
			Traits::rollback(*static_cast<T *>(connection));
	};
	made.lost = []([[maybe_unused]] void *connection) noexcept {
		if constexpr (tells_loss<Traits, T>)
			return Traits::lost(*static_cast<T *>(connection));
		else
			return false;
	};
	if constexpr (can_close<Traits, T>)
		made.close = [](void *connection) noexcept {
			Traits::close(*static_cast<T *>(connection));
		};
	if constexpr (can_keep_alive<Traits, T>)
		made.keep_alive = [](void *connection) noexcept {
			Traits::keep_alive(*static_cast<T *>(connection));
		};
	if constexpr (has_control<Traits, T>)
		made.control = [](void *connection) {
			return Traits::control(*static_cast<T *>(connection));
		};
	if constexpr (has_socket<Traits, T>)
		made.socket = [](void *connection) noexcept {
			return Traits::socket(*static_cast<T *>(connection));
		};
	made.default_scope = []([[maybe_unused]] void *connection) noexcept {
		if constexpr (has_default_scope<Traits, T>)
			return Traits::default_scope(*static_cast<T *>(connection));
		else
			return scope::session;
	};
	if constexpr (tells_host<Traits, T>)
		made.host = [](void *connection) { return Traits::host(*static_cast<T *>(connection)); };
	made.session_of = [](void *connection) -> std::shared_ptr<session> {
		if constexpr (has_memory<Traits, T>)
			return Traits::memory(*static_cast<T *>(connection)).session();
		else if constexpr (has_session<Traits, T>)
			return sessions.find(Traits::session(*static_cast<T *>(connection)));
		else
			return sessions.find(connection);
	};
	if constexpr (can_prepare<Traits, T>)
	{
		made.prepare = [](void *connection, const char *name, const char *text,
						  [[maybe_unused]] const deadline &until) {
			if constexpr (has_deadlines<Traits, T>)
				Traits::prepare(*static_cast<T *>(connection), name, text, until);
			else
				Traits::prepare(*static_cast<T *>(connection), name, text);
		};
		made.execute_prepared = [](void *connection, const char *name, parameters values,
								   [[maybe_unused]] const deadline &until) {
			if constexpr (has_deadlines<Traits, T>)
				return Traits::execute_prepared(*static_cast<T *>(connection), name, values, until);
			else
				return Traits::execute_prepared(*static_cast<T *>(connection), name, values);
		};
	}
	return made;
}

class cluster_server;

template <typename Traits, typename T>
inline constexpr operations operations_of = make_operations<Traits, T>();
} // namespace detail

/// A connection of any type, by reference: the connection has to outlive it, and every lock that
/// was made with it. Given a `std::shared_ptr` or `std::unique_ptr`, it keeps the connection
/// itself, and so does every lock that was made with it, until it has been released. Cheap to copy.
/// Connections convert to it by themselves, so it is rarely named.
///
/// A connection belongs to one thread at a time, and so do the locks on it.
class connection_ref
{
  public:
	/// By the `connection_traits` of the connection's type.
	template <typename T>
	requires connection_interface<connection_traits<T>, T>
	connection_ref(T &connection)
	noexcept
		: connection_(&connection), operations_(&detail::operations_of<connection_traits<T>, T>)
	{
	}

	/// The same for a pointer. Throws `std::invalid_argument` for a null one.
	template <typename T>
	requires connection_interface<connection_traits<T>, T>
	connection_ref(T *connection)
		: connection_(connection), operations_(&detail::operations_of<connection_traits<T>, T>)
	{
		if (connection == nullptr)
			throw std::invalid_argument("there is no connection");
	}

	/// The same for a connection that is shared, and kept.
	template <typename T>
	requires connection_interface<connection_traits<T>, T>
	connection_ref(std::shared_ptr<T> connection) : connection_ref(connection.get())
	{
		owner_ = std::move(connection);
	}

	/// The same for a connection that is handed over.
	template <typename T, typename Deleter>
	requires connection_interface<connection_traits<T>, T>
	connection_ref(std::unique_ptr<T, Deleter> connection)
		: connection_ref(std::shared_ptr<T>(std::move(connection)))
	{
	}

	/// By an interface that is named, whatever the traits of the type. See `through()`.
	template <typename Traits, typename T>
	requires connection_interface<Traits, T>
	[[nodiscard]] static connection_ref
	with(T &connection) noexcept
	{
		return {&connection, &detail::operations_of<Traits, T>};
	}

	/// Runs a command as it is. See `connection_traits` for these.
	reply
	execute(const char *text, parameters values = {}, const deadline &until = {}) const
	{
		return operations_->execute(connection_, text, values, until);
	}

	[[nodiscard]] transaction_status
	status() const noexcept
	{
		return operations_->status(connection_);
	}

	void
	rollback(const deadline &until = {}) const
	{
		operations_->rollback(connection_, until);
	}

	[[nodiscard]] bool
	lost() const noexcept
	{
		return operations_->lost(connection_);
	}

	/// False: nothing was done, as that is not known of the connection's type.
	bool
	close() const noexcept
	{
		if (operations_->close == nullptr)
			return false;
		operations_->close(connection_);
		return true;
	}

	/// False: nothing was done, as that is not known of the connection's type.
	bool
	keep_alive() const noexcept
	{
		if (operations_->keep_alive == nullptr)
			return false;
		operations_->keep_alive(connection_);
		return true;
	}

	[[nodiscard]] bool
	has_control() const noexcept
	{
		return operations_->control != nullptr;
	}

	[[nodiscard]] command_control
	control() const
	{
		return operations_->control(connection_);
	}

	[[nodiscard]] bool
	has_socket() const noexcept
	{
		return operations_->socket != nullptr;
	}

	[[nodiscard]] int
	socket() const noexcept
	{
		return operations_->socket(connection_);
	}

	[[nodiscard]] scope
	default_scope() const noexcept
	{
		return operations_->default_scope(connection_);
	}

	[[nodiscard]] bool
	can_prepare() const noexcept
	{
		return operations_->prepare != nullptr;
	}

	void
	prepare(const char *name, const char *text, const deadline &until = {}) const
	{
		operations_->prepare(connection_, name, text, until);
	}

	reply
	execute_prepared(const char *name, parameters values, const deadline &until = {}) const
	{
		return operations_->execute_prepared(connection_, name, values, until);
	}

	[[nodiscard]] std::shared_ptr<detail::session>
	session() const
	{
		return operations_->session_of(connection_);
	}

	/// Where the server is, for messages. Empty if that is not known.
	[[nodiscard]] std::string
	host() const
	{
		return operations_->host != nullptr ? operations_->host(connection_) : "";
	}

  private:
	friend class detail::cluster_server;

	connection_ref(void *connection, const detail::operations *operations) noexcept
		: connection_(connection), operations_(operations)
	{
	}

	void *connection_;
	const detail::operations *operations_;
	/// null if somebody else keeps the connection
	std::shared_ptr<void> owner_;
};

/// Keeps the server from ending an idle session, and the locks with it, by `idle_session_timeout`:
/// to be called more often than that, in the thread that the connection belongs to. It sends a
/// message of five bytes that has no answer, so it waits for nothing; with one on its way the
/// kernel also finds out earlier that the server is gone. After it the server counts no idle time
/// at all before it gets the next command. Does nothing while a command or a transaction is under
/// way. Not for connections to a pooler that shares sessions.
///
/// False: nothing was done, as that is not known of the connection's type. It is of libpq's, from
/// version 14 on, but not of libpqxx's: run a statement instead.
inline bool
keep_alive(const connection_ref &connection) noexcept
{
	return connection.keep_alive();
}

/// Names the interface to a connection, where it is not to be that of its type:
/// `pglock::guard guard(pglock::through<my_traits>(connection), "key");`
template <typename Traits, typename T>
requires connection_interface<Traits, T>
[[nodiscard]] connection_ref
through(T &connection) noexcept
{
	return connection_ref::with<Traits>(connection);
}
} // namespace pglock
