/*
 * version.cpp: the version of the library, and that of the extension in the database.
 */
#include "version.hpp"

#include "module.hpp"
#include "pg.hpp"

namespace pglock::version
{
namespace
{
/* Of the extension in this database; nullptr: it is not there. */
const char *
installed()
{
	const char *version = nullptr;
	ScanKeyData wanted;
	Relation extensions = table_open(ExtensionRelationId, AccessShareLock);

	ScanKeyInit(&wanted, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("postgres_lock"));

	SysScanDesc scan =
		systable_beginscan(extensions, ExtensionNameIndexId, true, nullptr, 1, &wanted);

	if (HeapTuple found = systable_getnext(scan); HeapTupleIsValid(found))
	{
		bool is_null;
		Datum value = heap_getattr(found, Anum_pg_extension_extversion,
								   RelationGetDescr(extensions), &is_null);

		version = TextDatumGetCString(value);
	}
	systable_endscan(scan);
	table_close(extensions, AccessShareLock);
	return version;
}
} // namespace

void
check()
{
	static bool is_checked = false;

	/* for a parallel worker its leader has done so */
	if (is_checked || !settings::warnings || IsParallelWorker())
		return;

	const char *version = installed();

	is_checked = true;
	if (version != nullptr && strcmp(version, PGLOCK_VERSION) != 0)
		ereport(
			WARNING,
			(errmsg(
				 "extension \"postgres_lock\" is at version %s, but its library is at version %s",
				 version, PGLOCK_VERSION),
			 errhint("Run ALTER EXTENSION postgres_lock UPDATE. If it is the library "
					 "that is older, connect again, or restart the server if that has "
					 "preloaded it.")));
}
} // namespace pglock::version
