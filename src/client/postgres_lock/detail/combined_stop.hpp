// combined_stop.hpp: stop is requested as soon as it is of one of several tokens.
#pragma once

#include <version>

#if defined(__cpp_lib_jthread)
#include <list>
#include <stop_token>

namespace pglock::detail
{
/// As long as it lives.
class combined_stop
{
  public:
	combined_stop() = default;
	combined_stop(const combined_stop &) = delete;
	combined_stop &operator=(const combined_stop &) = delete;

	void
	add(const std::stop_token &stop)
	{
		requests_.emplace_back(stop, request{source_});
	}

	[[nodiscard]] std::stop_token
	get_token() const noexcept
	{
		return source_.get_token();
	}

  private:
	struct request
	{
		std::stop_source source;

		void
		operator()() const noexcept
		{
			// what is called may end the combination, and with it this object
			std::stop_source kept = source;

			kept.request_stop();
		}
	};

	std::stop_source source_;
	std::list<std::stop_callback<request>> requests_;
};
} // namespace pglock::detail
#endif
