/*
 * row_builder.hpp: the rows that set-returning functions return.
 */
#pragma once

#include "pg.hpp"

namespace pglock
{
/* A row being made: columns in order. */
template <int columns> class row_builder
{
  public:
	void
	add(Datum value)
	{
		values[count] = value;
		nulls[count++] = false;
	}

	void
	add_null()
	{
		values[count] = 0;
		nulls[count++] = true;
	}

	void
	add_text(const text *value)
	{
		if (value == nullptr)
			add_null();
		else
			add(PointerGetDatum(value));
	}

	void
	add_text(const char *value)
	{
		add_text(value != nullptr ? cstring_to_text(value) : nullptr);
	}

	void
	add_time(TimestampTz time)
	{
		if (time == 0)
			add_null();
		else
			add(TimestampTzGetDatum(time));
	}

	void
	put(FunctionCallInfo fcinfo)
	{
		auto result = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);

		Assert(count == columns);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}

  private:
	Datum values[columns];
	bool nulls[columns];
	int count = 0;
};
} // namespace pglock
