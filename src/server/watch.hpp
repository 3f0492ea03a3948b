/*
 * watch.hpp: what is to be done when statements and transactions end.
 */
#pragma once

namespace pglock::watch
{
/* To be called once, when the library is loaded. */
void begin();
} // namespace pglock::watch
