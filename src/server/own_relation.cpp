/*
 * own_relation.cpp: the relations of the extension, by their names.
 */
#include "own_relation.hpp"

namespace pglock
{
own_relation *own_relation::first = nullptr;

/* Called when a relation, or if there is no `changed` any of them, has changed. */
void
own_relation::forget(Datum, Oid changed)
{
	for (own_relation *known = first; known != nullptr; known = known->next)
		if (!OidIsValid(changed) || known->oid == changed)
			known->oid = InvalidOid;
}

Oid
own_relation::find()
{
	/* PostgreSQL has room for few callbacks: one for all */
	if (first == nullptr)
		CacheRegisterRelcacheCallback(forget, 0);
	if (!is_known)
	{
		next = first;
		first = this;
		is_known = true;
	}
	if (!OidIsValid(oid))
	{
		Oid schema = get_namespace_oid("pglock", true);
		Oid found = OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;

		oid = OidIsValid(found) && get_rel_relkind(found) == kind ? found : InvalidOid;
	}
	return oid;
}

Oid
own_relation::find_or_raise()
{
	if (!OidIsValid(find()))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("%s \"pglock.%s\" does not exist",
							   kind == RELKIND_SEQUENCE ? "sequence" : "relation", name),
						errhint("Run ALTER EXTENSION postgres_lock UPDATE, or create the extension "
								"again.")));
	return oid;
}

Relation
own_relation::open(LOCKMODE lockmode)
{
	Relation opened;

	while ((opened = try_relation_open(find_or_raise(), lockmode)) == nullptr)
		oid = InvalidOid;
	return opened;
}
} // namespace pglock
