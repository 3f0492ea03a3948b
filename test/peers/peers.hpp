// peers.hpp: who is compared.
#pragma once

#include <vector>

#include "client.hpp"

/// In each of them the built-in functions come first.
std::vector<peer> postgres_peers();
std::vector<peer> redis_peers();
peer mariadb_peer();
peer etcd_peer();

/// The control.
peer no_lock();
