/*
 * activity.cpp: what pg_stat_activity shows of sessions to the current user.
 */
#include "activity.hpp"

#include "compat.hpp"

#include <algorithm>

namespace pglock::activity
{
namespace
{
/* What pg_stat_get_backend_client_addr() says, to whom it says it. */
NullableDatum
client_address(int number)
{
	LOCAL_FCINFO(call, 1);

	InitFunctionCallInfoData(*call, nullptr, 1, InvalidOid, nullptr, nullptr);
	call->args[0] = {Int32GetDatum(number), false};

	Datum address = pg_stat_get_backend_client_addr(call);

	return {address, call->isnull};
}
} // namespace

void
reader::begin()
{
	pgstat_clear_backend_activity_snapshot();

	size_t count = 0;
	auto made = static_cast<entry *>(
		palloc(sizeof(entry) * static_cast<Size>(pgstat_fetch_stat_numbackends() + 1)));

	compat::for_each_backend_status([&](const PgBackendStatus &status, int number) {
		made[count++] = {&status, number};
	});
	entries = {made, count};
	std::sort(entries.begin(), entries.end(), [](const entry &a, const entry &b) {
		return a.status->st_procpid < b.status->st_procpid;
	});
}

const reader::entry *
reader::find(int pid) const
{
	auto place =
		std::lower_bound(entries.begin(), entries.end(), pid,
						 [](const entry &e, int wanted) { return e.status->st_procpid < wanted; });

	return place != entries.end() && place->status->st_procpid == pid ? &*place : nullptr;
}

const PgBackendStatus *
reader::status_of(int pid) const
{
	const entry *found = find(pid);

	return found != nullptr ? found->status : nullptr;
}

session
reader::of(int pid) const
{
	const entry *found = find(pid);
	session shown = {};

	shown.client_address.isnull = true;
	if (found == nullptr)
		return shown;

	if (const char *role = GetUserNameFromId(found->status->st_userid, true); role != nullptr)
	{
		auto name = static_cast<NameData *>(palloc(sizeof(NameData)));

		namestrcpy(name, role);
		shown.role = name;
	}
	shown.application_name = cstring_to_text(found->status->st_appname);
	shown.client_address = client_address(found->number);
	return shown;
}
} // namespace pglock::activity
