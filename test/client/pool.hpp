// pool.hpp: a pooler's two sessions, of which others get the one that they are to get.
#pragma once

#include <cstddef>

#include "server.hpp"

/// Two clients that leave others but one session of the pool at a time.
class narrow_pool
{
  public:
	narrow_pool()
	{
		for (auto &client : clients_)
			client.begin();
		clients_[free_].commit();
	}

	/// Others are given the other session from now on.
	void
	change_session()
	{
		clients_[free_].begin();
		free_ = 1 - free_;
		clients_[free_].commit();
	}

  private:
	server::libpq_session clients_[2];
	std::size_t free_ = 0;
};
