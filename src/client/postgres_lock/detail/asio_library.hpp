// asio_library.hpp: which Asio is used: the standalone one, or Boost's where
// POSTGRES_LOCK_BOOST_ASIO is defined. Within the library both are called `asio`.
#pragma once

#if defined(POSTGRES_LOCK_BOOST_ASIO)

#include <boost/asio.hpp>

#if defined(BOOST_ASIO_HAS_CO_AWAIT)
#define POSTGRES_LOCK_HAS_CO_AWAIT
#endif

namespace pglock
{
namespace asio = boost::asio;
namespace detail
{
using boost::system::error_code;
using boost::system::system_error;
} // namespace detail
} // namespace pglock

#else

#include <asio.hpp>
#include <system_error>

#if defined(ASIO_HAS_CO_AWAIT)
#define POSTGRES_LOCK_HAS_CO_AWAIT
#endif

namespace pglock::detail
{
using std::error_code;
using std::system_error;
} // namespace pglock::detail

#endif
