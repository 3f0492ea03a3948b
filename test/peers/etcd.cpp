// etcd.cpp: the lock API of etcd 3 over its JSON gateway. As etcd's own client library does, a
// client gets one lease when it begins, and takes all its locks with that: it is spared a request
// for each.
#include <curl/curl.h>
#include <memory>
#include <nlohmann/json.hpp>
#include <openssl/evp.h>
#include <stdexcept>
#include <utility>

#include "peers.hpp"
#include "row.hpp"

namespace
{
using nlohmann::json;

/// The gateway has all bytes in base 64.
std::string
base64(const std::string &bytes)
{
	std::string text(4 * ((bytes.size() + 2) / 3) + 1, '\0');
	int length = EVP_EncodeBlock(reinterpret_cast<unsigned char *>(text.data()),
								 reinterpret_cast<const unsigned char *>(bytes.data()),
								 static_cast<int>(bytes.size()));

	text.resize(static_cast<std::size_t>(length));
	return text;
}

/// One connection that is kept open. libcurl sets TCP_NODELAY.
class gateway
{
  public:
	explicit gateway(std::uint16_t port)
		: address_("http://127.0.0.1:" + std::to_string(port) + "/v3/")
	{
		if (!connection_)
			throw std::runtime_error("no memory for libcurl");
		curl_easy_setopt(connection_.get(), CURLOPT_HTTPHEADER, headers_.get());
		curl_easy_setopt(connection_.get(), CURLOPT_FAILONERROR, 1L);
		curl_easy_setopt(connection_.get(), CURLOPT_NOSIGNAL, 1L);
		curl_easy_setopt(connection_.get(), CURLOPT_WRITEFUNCTION, take);
		curl_easy_setopt(connection_.get(), CURLOPT_WRITEDATA, &answer_);
	}

	gateway(const gateway &) = delete;
	gateway &operator=(const gateway &) = delete;

	json
	request(const char *what, const json &arguments)
	{
		std::string url = address_ + what;
		std::string body = arguments.dump();

		answer_.clear();
		curl_easy_setopt(connection_.get(), CURLOPT_URL, url.c_str());
		curl_easy_setopt(connection_.get(), CURLOPT_POSTFIELDSIZE, static_cast<long>(body.size()));
		curl_easy_setopt(connection_.get(), CURLOPT_POSTFIELDS, body.c_str());

		CURLcode failure = curl_easy_perform(connection_.get());

		if (failure != CURLE_OK)
			throw std::runtime_error(std::string("etcd: ") + curl_easy_strerror(failure));
		return json::parse(answer_);
	}

  private:
	static std::size_t
	take(const char *data, std::size_t size, std::size_t count, void *answer)
	{
		static_cast<std::string *>(answer)->append(data, size * count);
		return size * count;
	}

	std::string address_;
	std::unique_ptr<CURL, ended_by<curl_easy_cleanup>> connection_{curl_easy_init()};
	std::unique_ptr<curl_slist, ended_by<curl_slist_free_all>> headers_{
		curl_slist_append(nullptr, "Content-Type: application/json")};
	std::string answer_;
};

class etcd_client final : public outside_client
{
  public:
	explicit etcd_client(const places &places)
		: outside_client(places), etcd_(places.ports.at("etcd")),
		  lease_(etcd_.request("lease/grant", {{"TTL", "60"}}).at("ID").get<std::string>())
	{
	}

	~etcd_client() override
	{
		try
		{
			etcd_.request("lease/revoke", {{"ID", lease_}});
		}
		catch (const std::exception &)
		{
			// it expires
		}
	}

  protected:
	void
	acquire(const std::string &key) override
	{
		key_ = etcd_.request("lock/lock", {{"name", base64(key)}, {"lease", lease_}})
				   .at("key")
				   .get<std::string>();
	}

	void
	release(const std::string &) override
	{
		etcd_.request("lock/unlock", {{"key", key_}});
	}

  private:
	gateway etcd_;
	std::string lease_;
	std::string key_;
};
} // namespace

peer
etcd_peer()
{
	return {"etcd", false, [](const places &places) -> std::unique_ptr<client> {
				return std::make_unique<etcd_client>(places);
			}};
}
