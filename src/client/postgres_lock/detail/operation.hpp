// operation.hpp: drives the state machines of operations over a channel, as operations of Asio.
#pragma once

#include <algorithm>
#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>
#include <version>

#include "../error.hpp"
#include "../key.hpp"
#include "answer.hpp"
#include "asio_library.hpp"
#include "async_connection.hpp"
#include "async_hold.hpp"
#include "cancellable_wait.hpp"
#include "conversation.hpp"
#include "protocol.hpp"
#include "watch.hpp"

namespace pglock::detail
{
/// What an operation has made, before it is handed on; of one without a value nothing.
template <typename Value>
using made_value = std::conditional_t<std::is_void_v<Value>, std::monostate, Value>;

/// A conversation as a composed operation of Asio. `Finish` makes its value of the machine in the
/// end, or throws.
///
/// It moves from one wait to the next, and is never in the hands of another thread.
template <typename Machine, typename Finish> class operation
{
  public:
	using value = std::invoke_result_t<Finish &, Machine &>;

	operation(std::unique_ptr<conversation<Machine>> conversation, Finish finish)
		: conversation_(std::move(conversation)), finish_(std::move(finish))
	{
	}

	/// Called to begin, and whenever what was waited for has come. The error only says that the
	/// wait was interrupted: why, the cancellation state and the clock say.
	template <typename Self> void operator()(Self &self, error_code = {})
	{
		bool begins = !std::exchange(has_begun_, true);

		if (begins)
			self.reset_cancellation_state(asio::enable_total_cancellation());

		auto next = conversation_->go_on(self.get_cancellation_state().cancelled());

		// none of our members may be touched once we have been moved
		if (next != event::none)
			wait(self, next);
		else if (begins) // must not complete before async_... has returned
			asio::post(conversation_->of()->channel.executor(), std::move(self));
		else
			complete(self);
	}

  private:
	using event = typename conversation<Machine>::event;

	template <typename Self>
	void
	wait(Self &self, event next)
	{
		async_connection &of = *conversation_->of();

		of.channel.timer().expires_at(conversation_->latest(next));
		of.channel.timer().async_wait(
			asio::bind_executor(self.get_executor(),
								[weak = std::weak_ptr(conversation_->of())](error_code error) {
									if (auto alive = weak.lock(); alive && !error)
										alive->wake();
								}));
		if (next == event::interruption)
			of.interruption.async_wait(std::move(self));
		else
			of.channel.socket().async_wait(of.channel.next_event(), std::move(self));
	}

	template <typename Self>
	void
	complete(Self &self)
	{
		std::exception_ptr failure = conversation_->failure();
		made_value<value> made{};

		if (!failure)
		{
			try
			{
				if constexpr (std::is_void_v<value>)
					finish_(conversation_->machine());
				else
					made = finish_(conversation_->machine());
			}
			catch (...)
			{
				failure = std::current_exception();
			}
		}
		// the handler may end the user's object, for which the operation is over
		conversation_.reset();
		if constexpr (std::is_void_v<value>)
			self.complete(failure);
		else
			self.complete(failure, std::move(made));
	}

	std::unique_ptr<conversation<Machine>> conversation_;
	Finish finish_;
	bool has_begun_ = false;
};

#if defined(POSTGRES_LOCK_HAS_CO_AWAIT)
using fallback_token = asio::use_awaitable_t<>;
#else
using fallback_token = void;
#endif
using asio_default_token = asio::default_completion_token<asio::any_io_executor>::type;

/// What operations complete by if they are given no token; `void`: they have to be given one.
using default_token =
	std::conditional_t<std::is_void_v<asio_default_token>, fallback_token, asio_default_token>;

template <typename Value> struct operation_signature
{
	using type = void(std::exception_ptr, Value);
};

template <> struct operation_signature<void>
{
	using type = void(std::exception_ptr);
};

/// Starts an operation, which hears of a cancellation that came before it. The machine is made of
/// the arguments.
template <typename Machine, typename Finish, typename Token, typename... Arguments>
auto
start_cancelled(const std::shared_ptr<async_connection> &of, asio::cancellation_type asked,
				Token &&token, Finish finish, Arguments &&...arguments)
{
	using made = operation<Machine, Finish>;

	return asio::async_compose<Token, typename operation_signature<typename made::value>::type>(
		made(std::make_unique<conversation<Machine>>(of, asked,
													 std::forward<Arguments>(arguments)...),
			 std::move(finish)),
		token, of->channel.socket());
}

template <typename Machine, typename Finish, typename Token, typename... Arguments>
auto
start(const std::shared_ptr<async_connection> &of, Token &&token, Finish finish,
	  Arguments &&...arguments)
{
	return start_cancelled<Machine>(of, asio::cancellation_type::none, std::forward<Token>(token),
									std::move(finish), std::forward<Arguments>(arguments)...);
}

[[noreturn]] inline void
throw_cancelled()
{
	throw system_error(make_error_code(asio::error::operation_aborted));
}

/// Was it taken? For the value of an operation.
template <typename Acquisition>
[[nodiscard]] bool
is_taken(const Acquisition &ended)
{
	if (ended.result() == wait_outcome::cancelled)
		throw_cancelled();
	if (ended.result() == wait_outcome::disturbed)
		throw error("another command was run on the connection while it waited for a lock");
	return ended.result() == wait_outcome::taken;
}

template <typename Token>
auto
start_restitution(const std::shared_ptr<async_hold> &of, bool after_error, Token &&token,
				  asio::cancellation_type asked = asio::cancellation_type::none)
{
	return start_cancelled<restitution>(of, asked, std::forward<Token>(token),
										std::mem_fn(&restitution::result), of->hold, after_error);
}

template <typename Token>
auto
start_question(const std::shared_ptr<async_hold> &of, const statement &what, key asked,
			   Token &&token)
{
	return start<question>(of, std::forward<Token>(token), std::mem_fn(&question::result), of->hold,
						   what, std::move(asked));
}

#if defined(__cpp_lib_jthread)
/// Of the session that the hold belongs to, whatever the connection has become.
template <typename Token>
auto
start_watch(const std::shared_ptr<async_connection> &of, std::stop_source &stop, Token &&token)
{
	return start_watch(of->channel.executor(), of->link.connection, of->link.session, stop,
					   of->keep_alive, std::forward<Token>(token));
}
#endif
} // namespace pglock::detail
