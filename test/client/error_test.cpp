// Which error stands for what, and who hears of failures in destructors.
#include <memory>
#include <optional>
#include <string>
#include <typeinfo>

#include <gtest/gtest.h>
#include <postgres_lock/error.hpp>

#include "handler.hpp"

namespace
{
template <typename Error>
bool
throws(std::string_view sqlstate)
{
	try
	{
		pglock::throw_error(sqlstate, "why");
	}
	catch (const pglock::error &error)
	{
		EXPECT_EQ(error.sqlstate(), sqlstate);
		EXPECT_STREQ(error.what(), "why");
		return typeid(error) == typeid(Error);
	}
}
} // namespace

static_assert(std::is_nothrow_copy_constructible_v<pglock::timeout_error>);
static_assert(std::is_base_of_v<std::runtime_error, pglock::error>);

TEST(Error, IsOfTheClassOfItsSqlstate)
{
	EXPECT_TRUE(throws<pglock::deadlock_error>("40P01"));
	EXPECT_TRUE(throws<pglock::connection_lost>("57P01"));
	EXPECT_TRUE(throws<pglock::connection_lost>("08006"));
	EXPECT_TRUE(throws<pglock::error>("08P01"));
	EXPECT_TRUE(throws<pglock::error>("57014"));
	EXPECT_TRUE(throws<pglock::error>("55P03"));
	EXPECT_TRUE(throws<pglock::error>(""));
}

TEST(Error, TakesNoMoreThanASqlstate)
{
	EXPECT_EQ(pglock::error("why", "55P03 and more").sqlstate(), "55P03");
	EXPECT_EQ(pglock::error("why").sqlstate(), "");
}

TEST(FailureHandler, HearsAndMayThrow)
{
	failures heard;

	pglock::detail::report_release_failure("a", pglock::error("why"));
	EXPECT_EQ(heard.all(), std::vector<std::string>{"a: why"});
	pglock::set_release_failure_handler([](auto &, auto &) { throw 1; });
	pglock::detail::report_release_failure("a", pglock::error("why"));
}

TEST(FailureHandler, WithoutOneALineIsWritten)
{
	pglock::set_release_failure_handler({});
	testing::internal::CaptureStderr();
	pglock::detail::report_release_failure("a", pglock::error("why"));
	EXPECT_EQ(testing::internal::GetCapturedStderr(),
			  "postgres_lock: could not release \"a\": why\n");
}
