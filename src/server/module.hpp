/*
 * module.hpp: the settings, pglock.*
 */
#pragma once

namespace pglock::settings
{
extern bool warnings;			/* raise the warnings where a lock can not protect */
extern bool session_scope;		/* may locks be taken at session scope */
extern bool allow_on_standby;	/* may locks be taken on a hot standby */
extern int synchronous_acquire; /* one of confirmation.hpp: what an acquire waits for */
extern char *holder;			/* whom this session takes locks for; empty: it does not say */
extern int max_holds;			/* most locks one session may hold through pglock; 0: no limit */
extern int max_contended_keys;	/* most keys there are statistics of */
extern int lease_grace;			/* seconds after a promotion without new leases */
extern int lease_retention;		/* seconds for which expired leases are kept */
extern int token_margin;		/* seconds of lost log that tokens are safe from */
} // namespace pglock::settings
