// What may be a statement of a critical section, and what is refused before anything is sent.
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

#include <gtest/gtest.h>
#include <postgres_lock/critical_section.hpp>

using pglock::query;
using pglock::detail::first_word;

TEST(Query, TheFirstWordIsWhatTheServerFinds)
{
	for (const char *text : {"commit", "Commit;", " \t\n\r\f\vCOMMIT", "; ;commit", "-- a\ncommit",
							 "-- a\rcommit", "--\n--\n commit", "/**/commit", "/* /* */ */commit",
							 "/*/ */commit", "commit--", "commit/**/", "/* -- */ ; -- /*\n commit"})
		EXPECT_EQ(first_word(text), "COMMIT") << text;
	for (const char *text : {"", " ", "\"commit\"", "1", "(commit)", "$1", "-- commit", "/* commit",
							 "/* /* */ commit", "- commit", "/", "-"})
		EXPECT_EQ(first_word(text), "") << text;
	for (const char *text : {"commits", "commit_", "commit1", "commit$", "commit\xc3\xa9"})
		EXPECT_NE(first_word(text), "COMMIT") << text;
	EXPECT_EQ(first_word("select 'commit'"), "SELECT");
}

TEST(Query, WhatWouldReleaseTheLockIsRefused)
{
	for (const char *text :
		 {"COMMIT", "END", "ABORT", "ROLLBACK", "ROLLBACK TO a", "BEGIN", "START TRANSACTION",
		  "SAVEPOINT a", "RELEASE a", "PREPARE TRANSACTION 'a'", "COPY a FROM STDIN",
		  "COPY a TO STDOUT", "COMMIT AND CHAIN", "/* and */ commit"})
		EXPECT_THROW(query{text}, std::invalid_argument) << text;
	EXPECT_THROW(query(std::string_view("COMMIT")), std::invalid_argument);
	EXPECT_THROW(query(std::string("COMMIT"), {"a"}), std::invalid_argument);
	EXPECT_NO_THROW(query{"SELECT 1"});
	EXPECT_NO_THROW(query{""});
	EXPECT_NO_THROW((void)query::prepared("commit"));
}

TEST(Query, TextsThatCannotBeSentAreRefused)
{
	std::string zero("a\0b", 3);

	EXPECT_THROW(query{zero}, std::invalid_argument);
	EXPECT_THROW(query("SELECT $1", {zero}), std::invalid_argument);
	EXPECT_THROW((void)query::prepared(zero), std::invalid_argument);
	EXPECT_THROW(query(static_cast<const char *>(nullptr)), std::invalid_argument);
}

TEST(Query, ParametersAreTextsNumbersAndNulls)
{
	using pglock::parameter;

	EXPECT_STREQ(parameter("a").text(), "a");
	EXPECT_STREQ(parameter(std::string("a")).text(), "a");
	EXPECT_STREQ(parameter(std::string_view("a")).text(), "a");
	EXPECT_STREQ(parameter(42).text(), "42");
	EXPECT_STREQ(parameter(std::numeric_limits<std::int64_t>::min()).text(),
				 "-9223372036854775808");
	EXPECT_STREQ(parameter(0.1).text(), "0.1");
	EXPECT_STREQ(parameter(std::numeric_limits<double>::infinity()).text(), "inf");
	EXPECT_STREQ(parameter(true).text(), "t");
	EXPECT_STREQ(parameter(std::optional(42)).text(), "42");
	EXPECT_EQ(parameter(std::optional<std::string>()).text(), nullptr);
	EXPECT_EQ(parameter(std::nullopt).text(), nullptr);
	EXPECT_EQ(parameter().text(), nullptr);
	EXPECT_THROW(parameter(static_cast<const char *>(nullptr)), std::invalid_argument);
	EXPECT_NO_THROW(query("SELECT $1, $2, $3", {42, "a", std::nullopt}));
}
