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

TEST(Text, NothingCommandsATerminal) {
  EXPECT_EQ(printable("plain text, ä, \xE6\xBC\xA2, \xF0\x9F\x98\x80"), "plain text, ä, \xE6\xBC\xA2, \xF0\x9F\x98\x80");
  EXPECT_EQ(printable("a\nb\tc"), "a\nb\tc");
  EXPECT_EQ(printable("\x1b[31mred\x07\b\r"), R"(\x1b[31mred\x07\x08\x0d)");
  EXPECT_EQ(printable(std::string_view("\0x", 2)), R"(\x00x)");
  EXPECT_EQ(printable("\x7f"), R"(\x7f)");
  EXPECT_EQ(printable("\xC2\x9B"
                      "31m"),
            R"(\x9b31m)");  // CSI in one character
  EXPECT_EQ(printable("\xE2\x80\xAE"
                      "evil\xE2\x81\xA6"),
            R"(\u202eevil\u2066)");
  EXPECT_EQ(printable("\xE2\x80\xA8"), R"(\u2028)");
  EXPECT_EQ(printable_line("a\nb\tc\r"), R"(a\nb\tc\r)");
}

TEST(Text, BytesThatAreNoUtf8AreWrittenAsSuch) {
  EXPECT_EQ(printable("\x9b"
                      "31m"),
            R"(\x9b31m)");  // CSI of 8-bit terminals
  EXPECT_EQ(printable("a\xff"
                      "b"),
            R"(a\xffb)");
  EXPECT_EQ(printable("\xC3"), R"(\xc3)");                          // cut short
  EXPECT_EQ(printable("\xC0\x9B"), R"(\xc0\x9b)");                  // overlong
  EXPECT_EQ(printable("\xE0\x80\x9B"), R"(\xe0\x80\x9b)");          // overlong
  EXPECT_EQ(printable("\xED\xA0\x80"), R"(\xed\xa0\x80)");          // a surrogate
  EXPECT_EQ(printable("\xF4\x90\x80\x80"), R"(\xf4\x90\x80\x80)");  // beyond U+10FFFF
  EXPECT_EQ(as_utf8("a\xff\x1b\xE2\x80\xAE\xC2\x9B\n"), "a\\xff\x1b\xE2\x80\xAE\xC2\x9B\n");
}

TEST(Text, JsonIsTheSameButHidesNothing) {
  const Json value = {{"a\x7f", "\x1b[31m\n"}, {"b", {1, "\xC2\x9B", "\xE2\x80\xAE", "ä\xE2\x82\xAC"}}};
  for (const int indent : {-1, 2}) {
    const std::string text = json_text(value, indent);
    EXPECT_EQ(Json::parse(text), value);
    for (const char* hidden : {"\x7f", "\x1b", "\xC2\x9B", "\xE2\x80\xAE"}) EXPECT_EQ(text.find(hidden), std::string::npos) << text;
    EXPECT_NE(text.find("ä\xE2\x82\xAC"), std::string::npos);
  }
  EXPECT_EQ(json_text({{"a", 1}}), R"({"a":1})");
  EXPECT_EQ(json_text({{"a", 1}}, 2), "{\n  \"a\": 1\n}");
  EXPECT_EQ(Json::parse(json_text("a\xff")).get<std::string>(), "a\xEF\xBF\xBD");
}

}  // namespace moesweep
