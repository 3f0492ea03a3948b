// relay.hpp: a server as far away as one likes: what goes to it and comes from it is late.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <thread>

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/// Passes one connection on to the server that has its socket in the folder PGHOST. Outlives it.
/// Those who connect later are not answered.
class relay
{
  public:
	explicit relay(std::chrono::microseconds delay)
		: delay_(delay), client_(new_socket()), server_(new_socket())
	{
		const char *host = std::getenv("PGHOST");
		const char *port = std::getenv("PGPORT");
		std::string name = std::string("/.s.PGSQL.") + (port != nullptr ? port : "5432");
		sockaddr_un here = address(folder_ + name);
		sockaddr_un there = address((host != nullptr ? host : "") + name);

		if (bind(client_, reinterpret_cast<sockaddr *>(&here), sizeof here) != 0 ||
			listen(client_, 16) != 0 ||
			connect(server_, reinterpret_cast<sockaddr *>(&there), sizeof there) != 0)
			throw std::runtime_error("can't relay to " + name);
		thread_ = std::thread([this] { run(); });
	}

	relay(const relay &) = delete;
	relay &operator=(const relay &) = delete;

	~relay()
	{
		thread_.join();
		close(client_);
		close(server_);
		std::filesystem::remove_all(folder_);
	}

	/// Where libpq finds it.
	[[nodiscard]] const std::string &
	folder() const noexcept
	{
		return folder_;
	}

	/// From now on it takes what it is sent, and passes nothing on but the end of the connection.
	void
	freeze() noexcept
	{
		is_frozen_ = true;
	}

  private:
	static std::string
	new_folder()
	{
		std::string name = std::filesystem::temp_directory_path() / "relay.XXXXXX";

		if (mkdtemp(name.data()) == nullptr)
			throw std::runtime_error("can't make " + name);
		return name;
	}

	static int
	new_socket()
	{
		return socket(AF_UNIX, SOCK_STREAM, 0);
	}

	static sockaddr_un
	address(const std::string &path)
	{
		sockaddr_un made{};

		made.sun_family = AF_UNIX;
		path.copy(made.sun_path, sizeof made.sun_path - 1);
		return made;
	}

	void
	run() const
	{
		int client = accept(client_, nullptr, nullptr);
		std::thread back([&] { pass_on(server_, client); });

		pass_on(client, server_);
		back.join();
		close(client);
	}

	void
	pass_on(int from, int to) const
	{
		std::array<char, 65536> data;

		for (ssize_t length = 0; (length = read(from, data.data(), data.size())) > 0;)
		{
			if (is_frozen_)
				continue;
			std::this_thread::sleep_for(delay_);
			for (ssize_t sent = 0, now = 0; sent < length; sent += now)
				if ((now = send(to, data.data() + sent, static_cast<std::size_t>(length - sent),
								MSG_NOSIGNAL)) < 0)
					return;
		}
		shutdown(to, SHUT_WR);
	}

	std::chrono::microseconds delay_;
	std::atomic<bool> is_frozen_ = false;
	std::string folder_ = new_folder();
	int client_;
	int server_;
	std::thread thread_;
};
