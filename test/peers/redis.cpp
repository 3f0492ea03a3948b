// redis.cpp: a lock as Redis' documentation describes it ("Distributed Locks with Redis", the
// correct implementation with a single instance): a random value that expires, and a script that
// deletes the key if it still has that value. Who finds it taken tries again after a millisecond.
#include <chrono>
#include <cstring>
#include <hiredis/hiredis.h>
#include <memory>
#include <random>
#include <stdexcept>
#include <thread>

#include "peers.hpp"
#include "row.hpp"

namespace
{
class redis_client final : public outside_client
{
  public:
	redis_client(const places &places, const std::string &server)
		: outside_client(places), connection_(redisConnect("127.0.0.1", places.ports.at(server)))
	{
		if (!connection_ || connection_->err != 0)
			throw std::runtime_error("can't connect to Redis");
		script_ = text_of(*command("SCRIPT LOAD %s",
								   "if redis.call('get', KEYS[1]) == ARGV[1] then "
								   "return redis.call('del', KEYS[1]) else return 0 end"));
	}

  protected:
	void
	acquire(const std::string &key) override
	{
		value_ = std::to_string(random_());
		while (command("SET %s %s NX PX 30000", key.c_str(), value_.c_str())->type ==
			   REDIS_REPLY_NIL)
			std::this_thread::sleep_for(std::chrono::milliseconds(1));
	}

	void
	release(const std::string &key) override
	{
		if (command("EVALSHA %s 1 %s %s", script_.c_str(), key.c_str(), value_.c_str())->integer !=
			1)
			throw std::runtime_error("a lock of Redis was not held any more");
	}

  private:
	using reply_ptr = std::unique_ptr<redisReply, ended_by<freeReplyObject>>;

	template <typename... Values>
	reply_ptr
	command(const char *format, Values... values)
	{
		reply_ptr reply(
			static_cast<redisReply *>(redisCommand(connection_.get(), format, values...)));

		if (!reply)
			throw std::runtime_error(connection_->errstr);
		if (reply->type == REDIS_REPLY_ERROR)
			throw std::runtime_error(text_of(*reply));
		return reply;
	}

	static std::string
	text_of(const redisReply &reply)
	{
		return {reply.str, reply.len};
	}

	std::unique_ptr<redisContext, ended_by<redisFree>> connection_;
	std::string script_;
	std::string value_;
	std::mt19937_64 random_{std::random_device()()};
};

peer
redis_peer(const std::string &name, const std::string &server)
{
	return {name, false, [server](const places &places) -> std::unique_ptr<client> {
				return std::make_unique<redis_client>(places, server);
			}};
}
} // namespace

std::vector<peer>
redis_peers()
{
	return {redis_peer("Redis", "redis"), redis_peer("Redis, AOF", "redis-aof")};
}
