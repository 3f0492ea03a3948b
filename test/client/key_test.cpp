// What keys are made of, and what they refuse.
#include <string>
#include <type_traits>

#include <gtest/gtest.h>
#include <postgres_lock/key.hpp>

using pglock::key;

static_assert(!std::is_constructible_v<key, std::nullptr_t>);
static_assert(!std::is_constructible_v<key, bool>);
static_assert(!std::is_constructible_v<key, char>);
static_assert(!std::is_constructible_v<key, double>);

TEST(Key, IsMadeOfText)
{
	EXPECT_EQ(key("order:42").text(), "order:42");
	EXPECT_EQ(key(std::string("ключ")).text(), "ключ");
	EXPECT_EQ(key(std::string_view("a b").substr(0, 1)).text(), "a");
	EXPECT_EQ(key("").text(), "");
}

TEST(Key, ANumberMeansItsText)
{
	EXPECT_EQ(key(42), key("42"));
	EXPECT_EQ(key(0).text(), "0");
	EXPECT_EQ(key(-1L).text(), "-1");
	EXPECT_EQ(key(INT64_MIN).text(), "-9223372036854775808");
	EXPECT_EQ(key(UINT64_MAX).text(), "18446744073709551615");
	EXPECT_EQ(key(static_cast<unsigned char>(7)).text(), "7");
}

TEST(Key, RefusesWhatIsNoName)
{
	const char *none = nullptr;

	EXPECT_THROW(key{none}, std::invalid_argument);
	EXPECT_THROW(key(std::string("a\0b", 3)), std::invalid_argument);
}
