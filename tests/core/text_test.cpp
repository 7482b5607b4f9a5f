// Values as text.
#include "moesweep/core/text.hpp"

#include <gtest/gtest.h>

#include <regex>

namespace moesweep {

TEST(Text, NowInUtcWithTheDigitsAskedFor) {
  EXPECT_TRUE(std::regex_match(utc_now(), std::regex(R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)"))) << utc_now();
  EXPECT_TRUE(std::regex_match(utc_now(3), std::regex(R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)"))) << utc_now(3);
}

TEST(Text, DurationsAndConfigValues) {
  EXPECT_EQ(seconds_in_words(89), "89 s");
  EXPECT_EQ(seconds_in_words(150), "2.5 min");
  EXPECT_EQ(seconds_in_words(10800), "3.0 h");
  EXPECT_EQ(text_of(nullptr), "none");
  EXPECT_EQ(text_of("a b"), "a b");
  EXPECT_EQ(text_of({1, 2}), "[1,2]");
}

}  // namespace moesweep
