/*
 * own_relation.hpp: the relations of the extension, by their names.
 */
#pragma once

#include "pg.hpp"

namespace pglock
{
/* Lives for ever. Looked up once, until something about it changes. */
class own_relation
{
  public:
	constexpr own_relation(char kind, const char *name) : kind(kind), name(name)
	{
	}

	/* Invalid: there is none. */
	Oid find();

	/* Raises 55000 if there is none. */
	Oid find_or_raise();

	/* Opens it, locked: one that was dropped before it was locked is looked up again. */
	Relation open(LOCKMODE lockmode);

  private:
	static void forget(Datum, Oid changed);

	char kind; /* RELKIND_... */
	const char *name;
	Oid oid = InvalidOid; /* invalid: it is to be looked up */
	own_relation *next = nullptr;
	bool is_known = false; /* is it among those that are told of changes */
	static own_relation *first;
};
} // namespace pglock
