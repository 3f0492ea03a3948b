/*
 * key.hpp: the names of locks, and the lock ids they hash to.
 */
#pragma once

#include "lock_tag.hpp"

#include <string_view>
#include <type_traits>

namespace pglock
{
/*
 * What a caller names a lock by. The name is in the database encoding and lives as long as the
 * caller's memory context; it has no data if the lock is known by its id only.
 */
struct lock_key : lockable
{
	std::string_view name;

	/* one of its slots */
	lock_key
	with(int32 slot_number) const
	{
		return {{lock_id, slot_number}, name};
	}
};
static_assert(std::is_trivially_destructible_v<lock_key>);

/* The key of a name. Raises 22P05 and the like if the name has no form in UTF-8. */
lock_key key_of_name(std::string_view name);

/* The key of a bare lock id. */
lock_key key_of_id(int64 lock_id);

/* Names longer than this many bytes are shown shortened, at a character boundary, with "..." */
constexpr int shown_name_bytes = 255;

/* Room for a name as it is shown, zero-terminated. */
using shown_name_buffer = char[shown_name_bytes + sizeof("...")];

/* Writes the name as it is shown, and returns its length. Never raises. */
int show_name(std::string_view name, shown_name_buffer &shown);

/* The name as it is shown, allocated in the current memory context, zero-terminated. */
const char *shown_name(std::string_view name);

/* For messages: "NAME" in its quotes, or `id NUMBER`. Allocated in the current context. */
const char *describe(const lock_key &key);

/* The same with what it is the name of: `lock "NAME"`, `slot 3 of "NAME"`. */
const char *describe_in_full(const lock_key &key);
} // namespace pglock
