/*
 * token.hpp: fencing tokens.
 */
#pragma once

#include "key.hpp"

namespace pglock
{
/*
 * Draws a token greater than every one that was drawn in this database before. Raises 57014 if a
 * cancel strikes before the number is durable.
 */
int64 draw_token();

/*
 * The fencing token of this session's exclusive possession of the lock, which is drawn if it has
 * none yet: greater than every one that was drawn in this database before. Raises 55000 without
 * such a possession, 25006 on a standby and in a read-only transaction, 57014 if a cancel strikes
 * before the number is durable.
 */
int64 token(const lock_key &key);
} // namespace pglock
