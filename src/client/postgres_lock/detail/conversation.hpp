// conversation.hpp: drives a state machine over a channel, from one wait to the next.
#pragma once

#include <algorithm>
#include <chrono>
#include <exception>
#include <memory>
#include <optional>
#include <utility>

#include "../connection.hpp"
#include "../error.hpp"
#include "../libpq.hpp"
#include "asio_library.hpp"
#include "async_connection.hpp"
#include "request.hpp"
#include "statements.hpp"

namespace pglock::detail
{
/// A machine of protocol.hpp or of lease_protocol.hpp over a channel. It moves on until it has to
/// wait.
template <typename Machine> class conversation
{
  public:
	enum class event : unsigned char { none, socket, interruption };

	/// `asked` is a cancellation that came before it. The machine is made of the arguments.
	template <typename... Arguments>
	conversation(std::shared_ptr<async_connection> of, asio::cancellation_type asked,
				 Arguments &&...arguments)
		: of_(std::move(of)), usage_(*of_), machine_(std::forward<Arguments>(arguments)...),
		  asked_(asked)
	{
	}

	/// Goes on as far as possible without waiting, and says what is to be waited for. `heard` is
	/// the cancellation that has come.
	[[nodiscard]] event
	go_on(asio::cancellation_type heard)
	{
		auto next = event::none;

		if (is_over_)
			return next;
		try
		{
			hear_cancellation(heard);
			next = advance();
		}
		catch (...)
		{
			fail(std::current_exception());
		}
		is_over_ = next == event::none;
		// others may use the connection from now on
		if (is_over_)
			usage_.close_channel();
		return next;
	}

	/// When to look again, if what is waited for has not come by then.
	[[nodiscard]] std::chrono::steady_clock::time_point
	latest(event next) const
	{
		auto until = clock::now() + longest_wait;

		if (next == event::socket && machine_.wants_interruption())
			until = std::min(until, retry_at_);
		if (give_up_at_)
			until = std::min(until, *give_up_at_);
		if (deadline answer = machine_.until())
			until = std::min(until, *answer);
		return until;
	}

	[[nodiscard]] const std::shared_ptr<async_connection> &
	of() const noexcept
	{
		return of_;
	}

	[[nodiscard]] Machine &
	machine() noexcept
	{
		return machine_;
	}

	[[nodiscard]] const std::exception_ptr &
	failure() const noexcept
	{
		return failure_;
	}

  private:
	using clock = std::chrono::steady_clock;

	/// A request to cancel that arrives before its command is lost, so it is repeated.
	static constexpr std::chrono::milliseconds first_retry{20};
	static constexpr std::chrono::milliseconds last_retry{1000};

	/// Others may have had libpq read what we wait for, which nothing tells us of.
	static constexpr std::chrono::milliseconds longest_wait{1000};

	void
	hear_cancellation(asio::cancellation_type heard)
	{
		asked_ |= heard;
		if (asked_ == asio::cancellation_type::none && !of_->is_abandoned)
			return;
		machine_.cancel();
		if (!give_up_at_ && (of_->is_abandoned || (asked_ & asio::cancellation_type::terminal) !=
													  asio::cancellation_type::none))
			give_up_at_ = clock::now() + of_->grace;
	}

	[[nodiscard]] event
	advance()
	{
		while (exchange_ || ask())
		{
			std::optional<reply> answer;

			try
			{
				if (auto next = converse(); next != event::none)
					return next;
				if (of_->channel.is_overheard())
					machine_.disturbed();
				answer = of_->channel.take_reply();
			}
			catch (const error &failure)
			{
				is_sent_ = false;
				if (exchange_->recovers(failure))
					continue;
				exchange_.reset();
				if (!machine_.recovers(failure))
					throw;
				continue;
			}
			is_sent_ = false;
			if (!exchange_->succeeded())
				continue;
			exchange_.reset();
			machine_.succeeded(*answer);
		}
		return event::none;
	}

	/// What is to be waited for until the answer to what the exchange wanted to be sent is there.
	[[nodiscard]] event
	converse()
	{
		if (!of_->link.session->alive)
			throw connection_lost("the connection has been closed");
		// an answer is looked at when the request to cancel has arrived, so that this does not
		// meet a later command
		if (!of_->interruption.is_over())
			return waiting_for(event::interruption);
		if (is_sent_ && of_->channel.is_done())
			return event::none;
		if (!is_sent_)
		{
			usage_.open_channel();
			of_->channel.send(exchange_->next(), request_->what(), request_->values());
			is_sent_ = true;
		}
		if (is_to_be_interrupted() && !interrupt())
			return waiting_for(event::interruption);
		return waiting_for(event::socket);
	}

	[[nodiscard]] bool
	ask()
	{
		request_ = machine_.next();
		if (request_)
			exchange_.emplace(of_->link.connection, *of_->link.session, of_->statements,
							  request_->what());
		return request_.has_value();
	}

	[[nodiscard]] bool
	is_to_be_interrupted() const noexcept
	{
		return machine_.wants_interruption() && clock::now() >= retry_at_;
	}

	/// True: nothing is to be waited for, so it may be that nothing was sent.
	[[nodiscard]] bool
	interrupt() noexcept
	{
		retry_at_ = clock::now() + retry_;
		retry_ = std::min(2 * retry_, last_retry);
		try
		{
			of_->interruption.send(of_->channel.connection());
		}
		catch (const std::exception &)
		{
			return true;
		}
		return of_->interruption.is_over();
	}

	/// Throws if it is not waited for any more, with the connection shut down.
	[[nodiscard]] event
	waiting_for(event next)
	{
		if (give_up_at_ && clock::now() >= *give_up_at_)
		{
			shut_down(of_->channel.connection());
			is_given_up_ = true;
			throw connection_lost("the server did not answer a cancelled operation");
		}
		if (deadline until = machine_.until(); until && clock::now() >= *until)
		{
			shut_down(of_->channel.connection());
			throw connection_lost(no_answer_text);
		}
		if (next == event::interruption)
			of_->interruption.prepare_wait();
		return next;
	}

	/// What it fails with. A command that has no answer yet is not left to others.
	void
	fail(std::exception_ptr failure)
	{
		if (is_given_up_)
			failure = std::make_exception_ptr(
				system_error(make_error_code(asio::error::operation_aborted)));
		else if (is_sent_)
			shut_down(of_->channel.connection());
		failure_ = std::move(failure);
	}

	std::shared_ptr<async_connection> of_;
	usage usage_;
	Machine machine_;
	std::optional<request> request_;
	std::optional<exchange> exchange_;
	std::exception_ptr failure_;
	asio::cancellation_type asked_;
	std::optional<clock::time_point> give_up_at_;
	clock::time_point retry_at_{};
	std::chrono::milliseconds retry_ = first_retry;
	bool is_over_ = false;
	bool is_sent_ = false;
	bool is_given_up_ = false;
};
} // namespace pglock::detail
