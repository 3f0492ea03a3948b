// client.hpp: what every peer is to do: take a lock by its name, work, and give the lock back.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

/// Ends what a library in C has made, by the function that it has for that.
template <auto Function> struct ended_by
{
	void
	operator()(auto *made) const
	{
		Function(made);
	}
};

/// What is done while the lock is held. Rows are in PostgreSQL, whoever locks.
enum class work {
	nothing,
	/// UPDATE of the row that has the lock's name: it adds 1
	update,
	/// the same in two statements, of which the second writes what the first has read, and 1 more:
	/// without a lock updates get lost
	read_and_write,
};

/// Is told of each hold by the client itself, at the moment when it knows of it.
class witness
{
  public:
	virtual ~witness() = default;
	virtual void acquired() = 0;
	virtual void releasing() = 0;
};

/// One client, which belongs to a thread, with one connection to each server it needs.
class client
{
  public:
	client() = default;
	client(const client &) = delete;
	client &operator=(const client &) = delete;
	virtual ~client() = default;

	/// Waits for the lock, works, and releases. Throws if anything fails.
	virtual void cycle(const std::string &key, work work, witness &witness) = 0;
};

/// Where the servers are, on 127.0.0.1: the port of each by its name.
struct places
{
	std::map<std::string, std::uint16_t> ports;
	bool synchronous_commit = true;
	/// What a client has its session of PostgreSQL do when it begins: SQL, or nothing.
	std::string prelude;
};

struct peer
{
	std::string name;
	/// A transaction of its own encloses the work: there has to be some.
	bool needs_work = false;
	std::function<std::unique_ptr<client>(const places &)> connect;
};
