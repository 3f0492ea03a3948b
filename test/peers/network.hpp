// network.hpp: a network to a server on this machine: what goes to it and comes from it is late, by
// so much each way, however much is under way.
#pragma once

#include <array>
#include <asio.hpp>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <utility>

class network
{
  public:
	network(std::uint16_t server, std::chrono::microseconds delay)
		: server_(asio::ip::address_v4::loopback(), server), delay_(delay)
	{
		asio::co_spawn(context_, accept(), asio::detached);
		thread_ = std::jthread([this] { context_.run(); });
	}

	network(const network &) = delete;
	network &operator=(const network &) = delete;

	~network()
	{
		context_.stop();
	}

	/// Where the server seems to be.
	[[nodiscard]] std::uint16_t
	port() const
	{
		return acceptor_.local_endpoint().port();
	}

  private:
	using tcp = asio::ip::tcp;
	using clock = std::chrono::steady_clock;

	/// One direction of a connection. Empty data is its end.
	struct direction
	{
		struct piece
		{
			clock::time_point due;
			std::string data;
		};

		direction(std::shared_ptr<tcp::socket> source, std::shared_ptr<tcp::socket> target)
			: from(std::move(source)), to(std::move(target)), timer(from->get_executor())
		{
		}

		std::shared_ptr<tcp::socket> from;
		std::shared_ptr<tcp::socket> to;
		asio::steady_timer timer;
		std::deque<piece> under_way;
	};

	asio::awaitable<void>
	accept()
	{
		for (;;)
		{
			auto client =
				std::make_shared<tcp::socket>(co_await acceptor_.async_accept(asio::use_awaitable));
			auto server = std::make_shared<tcp::socket>(context_);

			co_await server->async_connect(server_, asio::use_awaitable);
			for (auto &socket : {client, server})
				socket->set_option(tcp::no_delay(true));
			pass_on(std::make_shared<direction>(client, server));
			pass_on(std::make_shared<direction>(server, client));
		}
	}

	void
	pass_on(std::shared_ptr<direction> way)
	{
		asio::co_spawn(context_, receive(way), asio::detached);
		asio::co_spawn(context_, deliver(way), asio::detached);
	}

	asio::awaitable<void>
	receive(std::shared_ptr<direction> way)
	{
		std::array<char, 65536> data;
		asio::error_code failure;

		while (!failure)
		{
			std::size_t length = co_await way->from->async_read_some(
				asio::buffer(data), asio::redirect_error(asio::use_awaitable, failure));

			way->under_way.push_back({clock::now() + delay_, {data.data(), length}});
			if (way->under_way.size() == 1)
				way->timer.cancel();
		}
	}

	asio::awaitable<void>
	deliver(std::shared_ptr<direction> way)
	{
		asio::error_code failure;

		for (;;)
		{
			while (way->under_way.empty())
			{
				way->timer.expires_at(clock::time_point::max());
				co_await way->timer.async_wait(asio::redirect_error(asio::use_awaitable, failure));
			}
			way->timer.expires_at(way->under_way.front().due);
			co_await way->timer.async_wait(asio::redirect_error(asio::use_awaitable, failure));

			std::string data = std::move(way->under_way.front().data);

			way->under_way.pop_front();
			if (data.empty())
				break;
			co_await asio::async_write(*way->to, asio::buffer(data),
									   asio::redirect_error(asio::use_awaitable, failure));
		}
		way->to->shutdown(tcp::socket::shutdown_send, failure);
	}

	asio::io_context context_{1};
	tcp::endpoint server_;
	std::chrono::microseconds delay_;
	tcp::acceptor acceptor_{context_, {asio::ip::address_v4::loopback(), 0}};
	std::jthread thread_;
};
