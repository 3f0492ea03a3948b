// operation.hpp: drives the state machines of protocol.hpp over a channel, as operations of Asio.
#pragma once

#include <algorithm>
#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <system_error>
#include <type_traits>
#include <utility>

#include <asio.hpp>

#include "../key.hpp"
#include "async_hold.hpp"
#include "cancel_service.hpp"
#include "protocol.hpp"
#include "watch.hpp"

namespace pglock::detail
{
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
} // namespace pglock::detail
