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
	add_if(bool has_value, Datum value)
	{
		values[count] = value;
		nulls[count++] = !has_value;
	}

	void
	add_text(const text *value)
	{
		add_if(value != nullptr, PointerGetDatum(value));
	}

	void
	add_text(const char *value)
	{
		add_text(value != nullptr ? cstring_to_text(value) : nullptr);
	}

	void
	add_time(TimestampTz time)
	{
		add_if(time != 0, TimestampTzGetDatum(time));
	}

	/*
	 * The columns that the function has: those that later versions of it added come last. There may
	 * be very many rows, so each is a point where a cancel may strike.
	 */
	void
	put(FunctionCallInfo fcinfo)
	{
		auto result = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);

		CHECK_FOR_INTERRUPTS();
		Assert(count <= columns && count >= result->setDesc->natts);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}

  private:
	Datum values[columns];
	bool nulls[columns];
	int count = 0;
};
} // namespace pglock
