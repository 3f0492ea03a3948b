/*
 * module.cpp: what PostgreSQL sees when it loads the library: magic, settings, callbacks.
 *
 * Works preloaded and loaded by the first call of a function. Settings that were set before the
 * library was loaded are placeholders until then; PostgreSQL checks them, and who set them, here.
 */
#include "module.hpp"

#include "compat.hpp"
#include "confirmation.hpp"
#include "registry.hpp"
#include "shared.hpp"
#include "watch.hpp"

extern "C"
{
PGLOCK_MODULE_MAGIC;
PGDLLEXPORT void _PG_init(void);
}

namespace pglock::settings
{
bool warnings = true;
bool session_scope = true;
bool allow_on_standby = false;
int synchronous_acquire = confirmation::off;
char *holder = nullptr;
int max_holds = 0;
int max_contended_keys = 1000;
int lease_grace = 0;
int lease_retention = SECS_PER_DAY;
int token_margin = SECS_PER_MINUTE;

static const config_enum_entry synchronous_acquire_values[] = {
	{"off", confirmation::off, false},		 {"on", confirmation::on, false},
	{"strict", confirmation::strict, false}, {"false", confirmation::off, true},
	{"no", confirmation::off, true},		 {"0", confirmation::off, true},
	{"true", confirmation::on, true},		 {"yes", confirmation::on, true},
	{"1", confirmation::on, true},			 {nullptr, 0, false},
};

static void
publish_holder(const char *value, void *)
{
	registry::publish_holder(value);
}

static void
define()
{
	DefineCustomStringVariable("pglock.holder",
							   "Sets whom this session takes its locks and leases for.",
							   "The views \"locks\" and \"leases\" show it.", &holder, "",
							   PGC_USERSET, 0, nullptr, publish_holder, nullptr);
	DefineCustomBoolVariable("pglock.warnings",
							 "Warns where a lock cannot protect what it seems to protect.", nullptr,
							 &warnings, true, PGC_USERSET, 0, nullptr, nullptr, nullptr);
	DefineCustomBoolVariable("pglock.session_scope", "Allows locks to be taken at session scope.",
							 "Turn it off for roles or databases behind a pooler that shares "
							 "sessions between transactions.",
							 &session_scope, true, PGC_SUSET, 0, nullptr, nullptr, nullptr);
	DefineCustomBoolVariable("pglock.allow_on_standby",
							 "Allows locks to be taken on a hot standby.",
							 "Such a lock excludes sessions of that standby only.",
							 &allow_on_standby, false, PGC_USERSET, 0, nullptr, nullptr, nullptr);
	DefineCustomEnumVariable("pglock.synchronous_acquire",
							 "Sets whether acquiring a lock waits for synchronous standbys.",
							 "Then a server that goes on beside a promoted standby gives out no "
							 "locks.",
							 &synchronous_acquire, confirmation::off, synchronous_acquire_values,
							 PGC_USERSET, 0, nullptr, nullptr, nullptr);
	DefineCustomIntVariable("pglock.max_holds",
							"Sets how many different locks a session may hold through pglock.",
							"Zero means no limit.", &max_holds, 0, 0, INT_MAX, PGC_SUSET, 0,
							nullptr, nullptr, nullptr);
	DefineCustomIntVariable("pglock.lease_grace",
							"Sets for how long no new lease is given out after a promotion.",
							"While the server that was primary may still give out leases.",
							&lease_grace, 0, 0, INT_MAX / 1000, PGC_SIGHUP, GUC_UNIT_S, nullptr,
							nullptr, nullptr);
	DefineCustomIntVariable("pglock.lease_retention",
							"Sets for how long a lease that has expired is kept.",
							"Until then its holder can renew it, if nobody has taken it over.",
							&lease_retention, SECS_PER_DAY, 0, INT_MAX, PGC_SUSET, GUC_UNIT_S,
							nullptr, nullptr, nullptr);
	DefineCustomIntVariable("pglock.token_margin",
							"Sets how much lost log of the old primary tokens are safe from.",
							"After a promotion tokens go on ahead by as much.", &token_margin,
							SECS_PER_MINUTE, 0, INT_MAX / 1000, PGC_SIGHUP, GUC_UNIT_S, nullptr,
							nullptr, nullptr);
	/* it sizes shared memory, which is made once */
	DefineCustomIntVariable("pglock.max_contended_keys",
							"Sets for how many keys the server keeps statistics of waits.",
							"Takes effect when the server is started.", &max_contended_keys, 1000,
							0, 1000000,
							process_shared_preload_libraries_in_progress ? PGC_POSTMASTER
																		 : PGC_SIGHUP,
							0, nullptr, nullptr, nullptr);
	MarkGUCPrefixReserved("pglock");
}
} // namespace pglock::settings

void
_PG_init(void)
{
	pglock::settings::define();
	pglock::shared::prepare();
	pglock::watch::begin();
}
