// async.hpp: drives the operations of protocol.hpp over a non-blocking PGconn with Asio.
#pragma once

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <concepts>
#include <exception>
#include <fcntl.h>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <system_error>
#include <type_traits>
#include <unistd.h>
#include <utility>
#include <vector>

#include <asio.hpp>

#include "../libpq.hpp"
#include "protocol.hpp"
#include "watch.hpp"

namespace pglock::detail
{
/// An executor, or that of an execution context.
class executor_argument
{
  public:
	template <std::convertible_to<asio::any_io_executor> Executor>
	executor_argument(const Executor &executor) : executor_(executor)
	{
	}

	template <std::derived_from<asio::execution_context> Context>
	executor_argument(Context &context) : executor_(context.get_executor())
	{
	}

	operator asio::any_io_executor() const
	{
		return executor_;
	}

  private:
	asio::any_io_executor executor_;
};

/// Sends cancel requests. libpq waits until they have arrived, so that is done by other threads.
/// They belong to the execution context, whose end waits for them.
class cancel_service : public asio::execution_context::service
{
  public:
	using key_type = cancel_service;
	static inline asio::execution_context::id id;

	explicit cancel_service(asio::execution_context &context)
		: asio::execution_context::service(context)
	{
	}

	/// Sends one for the command that the connection is running, and then posts `after` to the
	/// executor. Whether it was of any use shows in how the command ends.
	template <typename After>
	void
	send(PGconn &connection, asio::any_io_executor executor, After after)
	{
		asio::post(threads(), [cancel = cancel_ptr(PQgetCancel(&connection)),
							   executor = std::move(executor), after = std::move(after)]() mutable {
			std::array<char, 256> message;

			if (cancel)
				PQcancel(cancel.get(), message.data(), static_cast<int>(message.size()));
			cancel.reset();
			asio::post(executor, std::move(after));
		});
	}

  private:
	struct free_cancel
	{
		void
		operator()(PGcancel *cancel) const noexcept
		{
			PQfreeCancel(cancel);
		}
	};

	using cancel_ptr = std::unique_ptr<PGcancel, free_cancel>;

	/// One that hangs on a broken network must not keep the others from being sent.
	static constexpr std::size_t number_of_threads = 4;

	asio::thread_pool &
	threads()
	{
		std::lock_guard guard(mutex_);

		if (!threads_)
			threads_.emplace(number_of_threads);
		return *threads_;
	}

	void
	shutdown() noexcept override
	{
		threads_.reset();
	}

	std::mutex mutex_;
	std::optional<asio::thread_pool> threads_;
};

/// One connection as Asio sees it. Its socket is a duplicate, since others may have registered
/// libpq's own.
class channel
{
  public:
	channel(asio::any_io_executor executor, PGconn &connection)
		: connection_(connection), socket_(executor), timer_(std::move(executor))
	{
	}

	[[nodiscard]] asio::posix::stream_descriptor &
	socket() noexcept
	{
		return socket_;
	}

	[[nodiscard]] asio::steady_timer &
	timer() noexcept
	{
		return timer_;
	}

	[[nodiscard]] asio::any_io_executor
	executor() noexcept
	{
		return socket_.get_executor();
	}

	[[nodiscard]] PGconn &
	connection() const noexcept
	{
		return connection_;
	}

	/// For the time of an operation. Should the connection be closed meanwhile, the duplicate must
	/// not keep the server waiting.
	void
	open(session &session)
	{
		int socket = duplicate();
		std::error_code failure;

		socket_.assign(socket, failure);
		if (failure)
		{
			::close(socket);
			throw std::system_error(failure, "postgres_lock");
		}
		was_nonblocking_ = PQisnonblocking(&connection_) != 0;
		PQsetnonblocking(&connection_, 1);
		session.on_end = [this] { close_socket(); };
	}

	void
	close(session &session) noexcept
	{
		close_socket();
		if (!session.alive)
			return;
		session.on_end = nullptr;
		if (!was_nonblocking_)
			PQsetnonblocking(&connection_, 0);
	}

	void
	send(exchange::message message, const statement &what, parameters values)
	{
		auto count = static_cast<int>(values.size());
		int sent = 0;

		switch (message)
		{
			case exchange::message::prepare:
				sent = PQsendPrepare(&connection_, what.name, what.text, 0, nullptr);
				break;
			case exchange::message::execute_prepared:
				sent = PQsendQueryPrepared(&connection_, what.name, count, values.data(), nullptr,
										   nullptr, 0);
				break;
			default:
				sent = PQsendQueryParams(&connection_, what.text, count, nullptr, values.data(),
										 nullptr, nullptr, 0);
		}
		if (sent == 0)
			throw_libpq_error(connection_, nullptr);
		result_.reset();
	}

	/// Sends and receives what is possible without waiting. True: the command has ended.
	[[nodiscard]] bool
	is_done()
	{
		int unsent = PQflush(&connection_);

		if (unsent < 0 || PQconsumeInput(&connection_) == 0)
			throw_libpq_error(connection_, result_.get());
		wants_to_write_ = unsent > 0;
		while (PQisBusy(&connection_) == 0)
		{
			result_ptr next(PQgetResult(&connection_));

			if (!next)
				return true;
			result_ = std::move(next);
		}
		return false;
	}

	[[nodiscard]] reply
	take_reply()
	{
		return reply_of(connection_, std::move(result_));
	}

	/// What to wait for until is_done() may be true.
	[[nodiscard]] asio::posix::stream_descriptor::wait_type
	next_event() const noexcept
	{
		return wants_to_write_ ? asio::posix::stream_descriptor::wait_write
							   : asio::posix::stream_descriptor::wait_read;
	}

  private:
	/// As libpq's own it must not go to child processes: there the session would live on.
	[[nodiscard]] int
	duplicate() const
	{
		if (PQstatus(&connection_) == CONNECTION_BAD)
			throw_libpq_error(connection_, nullptr);

		int made = fcntl(PQsocket(&connection_), F_DUPFD_CLOEXEC, 0);

		if (made < 0)
			throw std::system_error(errno, std::generic_category(), "postgres_lock");
		return made;
	}

	void
	close_socket() noexcept
	{
		std::error_code ignored;

		socket_.close(ignored);
	}

	PGconn &connection_;
	asio::posix::stream_descriptor socket_;
	asio::steady_timer timer_;
	result_ptr result_;
	bool was_nonblocking_ = false;
	bool wants_to_write_ = false;
};

/// A hold and its channel. Operations keep it, so that it outlives the object of the user.
struct async_hold
{
	async_hold(asio::any_io_executor executor, PGconn *connection, std::vector<key> keys,
			   const options &options)
		: hold(connection, std::move(keys), options), channel(std::move(executor), *connection),
		  timeout(options.timeout)
	{
	}

	/// The end of the user's object. What is held is released, and that waits for the answer. If an
	/// operation is under way, it is cancelled, and that is done at its end.
	void
	end(bool by_error) noexcept
	{
		if (operations == 0)
			return hold.end(by_error);

		std::error_code ignored;

		is_abandoned = true;
		is_ended_by_error = by_error;
		channel.socket().cancel(ignored);
	}

	detail::hold hold;
	detail::channel channel;
	wait_time timeout;
	unsigned operations = 0;
	bool is_abandoned = false;
	bool is_ended_by_error = false;
};

/// The use that one operation makes of an async_hold.
class usage
{
  public:
	explicit usage(async_hold &of) noexcept : of_(&of)
	{
		of.operations++;
	}

	usage(usage &&other) noexcept : of_(std::exchange(other.of_, nullptr)), is_open_(other.is_open_)
	{
	}

	usage &operator=(usage &&) = delete;

	~usage()
	{
		if (of_ == nullptr)
			return;
		close_channel();
		if (--of_->operations == 0 && of_->is_abandoned)
			of_->hold.end(of_->is_ended_by_error);
	}

	void
	open_channel()
	{
		if (!is_open_)
			of_->channel.open(*of_->hold.session());
		is_open_ = true;
	}

	void
	close_channel() noexcept
	{
		if (std::exchange(is_open_, false))
			of_->channel.close(*of_->hold.session());
	}

  private:
	async_hold *of_;
	bool is_open_ = false;
};

/// A machine of protocol.hpp as a composed operation of Asio. `Finish` makes its value of the
/// machine in the end, or throws.
template <typename Machine, typename Finish> class operation
{
  public:
	using value = std::invoke_result_t<Finish &, Machine &>;

	operation(std::shared_ptr<async_hold> of, std::unique_ptr<Machine> machine, Finish finish)
		: of_(std::move(of)), usage_(*of_), machine_(std::move(machine)), finish_(std::move(finish))
	{
	}

	/// Called to begin, and whenever what was waited for has come. The error only says that the
	/// wait was interrupted: why, the cancellation state and the timer say.
	template <typename Self> void operator()(Self &self, std::error_code = {})
	{
		bool begins = !std::exchange(has_begun_, true);
		auto next = event::none;

		if (begins)
			self.reset_cancellation_state(asio::enable_total_cancellation());
		if (!is_over_)
		{
			try
			{
				if (is_stopped(self))
					machine_->cancel();
				next = advance();
			}
			catch (...)
			{
				failure_ = std::current_exception();
			}
			is_over_ = next == event::none;
			// others may use the connection from now on
			if (is_over_)
				usage_->close_channel();
		}
		// none of our members may be touched once we have been moved
		if (next == event::interruption)
			interrupt(self);
		else if (next == event::socket)
			wait(self);
		else if (begins) // must not complete before async_... has returned
			asio::post(of_->channel.executor(), std::move(self));
		else
			complete(self);
	}

  private:
	enum class event : unsigned char { none, socket, interruption };
	using clock = std::chrono::steady_clock;

	/// A request to cancel that arrives before its command is lost, so it is repeated.
	static constexpr std::chrono::milliseconds first_retry{20};
	static constexpr std::chrono::milliseconds last_retry{1000};

	template <typename Self>
	[[nodiscard]] bool
	is_stopped(Self &self) const noexcept
	{
		return of_->is_abandoned ||
			   self.get_cancellation_state().cancelled() != asio::cancellation_type::none;
	}

	/// Goes on as far as possible without waiting, and says what is to be waited for.
	[[nodiscard]] event
	advance()
	{
		while (exchange_ || ask())
		{
			std::optional<reply> answer;

			try
			{
				if (!converse())
					return is_to_be_interrupted() ? event::interruption : event::socket;
				answer = of_->channel.take_reply();
			}
			catch (const error &failure)
			{
				is_sent_ = false;
				if (exchange_->recovers(failure))
					continue;
				exchange_.reset();
				if (!machine_->recovers(failure))
					throw;
				continue;
			}
			is_sent_ = false;
			if (!exchange_->succeeded())
				continue;
			exchange_.reset();
			machine_->succeeded(*answer);
		}
		return event::none;
	}

	/// True: the answer to what the exchange wanted to be sent is there.
	[[nodiscard]] bool
	converse()
	{
		if (!of_->hold.session()->alive)
			throw connection_lost("the connection has been closed");
		if (!is_sent_)
		{
			usage_->open_channel();
			of_->channel.send(exchange_->next(), request_->what(), request_->values());
		}
		is_sent_ = true;
		return of_->channel.is_done();
	}

	[[nodiscard]] bool
	ask()
	{
		request_ = machine_->next();
		if (request_)
			exchange_.emplace(of_->hold.connection(), *of_->hold.session(), of_->hold.statements(),
							  request_->what());
		return request_.has_value();
	}

	[[nodiscard]] bool
	is_to_be_interrupted() const noexcept
	{
		return machine_->wants_interruption() && clock::now() >= retry_at_;
	}

	/// The answer is looked at when the request has arrived, so that it does not meet a later
	/// command.
	template <typename Self>
	void
	interrupt(Self &self)
	{
		channel &channel = of_->channel;
		auto &service = asio::use_service<cancel_service>(
			asio::query(channel.executor(), asio::execution::context));

		retry_at_ = clock::now() + retry_;
		retry_ = std::min(2 * retry_, last_retry);
		service.send(channel.connection(), channel.executor(), std::move(self));
	}

	template <typename Self>
	void
	wait(Self &self)
	{
		channel &channel = of_->channel;

		if (machine_->wants_interruption())
		{
			channel.timer().expires_at(retry_at_);
			channel.timer().async_wait(
				asio::bind_executor(self.get_executor(),
									[of = std::weak_ptr(of_)](std::error_code error) {
										if (auto alive = of.lock(); alive && !error)
											alive->channel.socket().cancel(error);
									}));
		}
		channel.socket().async_wait(channel.next_event(), std::move(self));
	}

	template <typename Self>
	void
	complete(Self &self)
	{
		std::exception_ptr failure = failure_;
		value made{};

		if (retry_at_ != clock::time_point())
			of_->channel.timer().cancel();
		if (!failure)
		{
			try
			{
				made = finish_(*machine_);
			}
			catch (...)
			{
				failure = std::current_exception();
			}
		}
		// the handler may end the user's object, for which the operation is over
		machine_.reset();
		usage_.reset();
		of_.reset();
		self.complete(failure, std::move(made));
	}

	std::shared_ptr<async_hold> of_;
	std::optional<usage> usage_;
	std::unique_ptr<Machine> machine_;
	Finish finish_;
	std::optional<request> request_;
	std::optional<exchange> exchange_;
	std::exception_ptr failure_;
	clock::time_point retry_at_{};
	std::chrono::milliseconds retry_ = first_retry;
	bool has_begun_ = false;
	bool is_over_ = false;
	bool is_sent_ = false;
};

/// Starts an operation.
template <typename Machine, typename Finish, typename Token, typename... Arguments>
auto
start(const std::shared_ptr<async_hold> &of, Token &&token, Finish finish, Arguments &&...arguments)
{
	using made = operation<Machine, Finish>;

	return asio::async_compose<Token, void(std::exception_ptr, typename made::value)>(
		made(of, std::make_unique<Machine>(of->hold, std::forward<Arguments>(arguments)...),
			 std::move(finish)),
		token, of->channel.socket());
}

/// Was the lock taken? For the value of an operation.
[[nodiscard]] inline bool
is_taken(const acquisition &ended)
{
	if (ended.result() == acquisition::outcome::cancelled)
		throw std::system_error(make_error_code(asio::error::operation_aborted));
	return ended.result() == acquisition::outcome::taken;
}

template <typename Token>
auto
start_restitution(const std::shared_ptr<async_hold> &of, bool after_error, Token &&token)
{
	return start<restitution>(of, std::forward<Token>(token), std::mem_fn(&restitution::result),
							  after_error);
}

template <typename Token>
auto
start_question(const std::shared_ptr<async_hold> &of, const statement &what, key asked,
			   Token &&token)
{
	return start<question>(of, std::forward<Token>(token), std::mem_fn(&question::result), what,
						   std::move(asked));
}

/// Of the session that the hold belongs to, whatever the connection has become.
template <typename Token>
auto
start_watch(const std::shared_ptr<async_hold> &of, std::stop_source &stop, Token &&token)
{
	return start_watch(of->channel.executor(), of->hold.connection(), of->hold.session(), stop,
					   std::forward<Token>(token));
}

/// Throws `std::invalid_argument` for a null connection.
[[nodiscard]] inline std::shared_ptr<async_hold>
make_async_hold(asio::any_io_executor executor, PGconn *connection, std::vector<key> keys,
				const options &options)
{
	return std::make_shared<async_hold>(std::move(executor), connection, std::move(keys), options);
}
} // namespace pglock::detail
