/*
 * version.hpp: the version of the library, and that of the extension in the database.
 *
 * They part when a new library has been installed, until ALTER EXTENSION UPDATE; and after that in
 * the sessions that still have the old library. Each library serves the functions of all versions
 * before its own: none loses its entry point, nor changes what that takes and gives.
 */
#pragma once

namespace pglock::version
{
/* Warns, once in a session, if the extension in this database has another version. */
void check();
} // namespace pglock::version
