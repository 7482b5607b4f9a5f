// JSON of others: limits of parsing, checked access, checked sizes.
#include "moesweep/core/foreign_json.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "moesweep/core/checked.hpp"

namespace moesweep {

namespace {

/// The message and place of the error that `work` throws; empty when it throws none.
template <class Work>
std::string error_of(Work&& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.where() + ": " + error.message();
  }
  return "";
}

TEST(ForeignJson, SaysWhereTheTextIsNoJson) {
  EXPECT_EQ(error_of([] { parse_json("{\"a\": 1,\n \"b\": }", "f"); }), "f:2:7: this is no JSON");
  EXPECT_EQ(error_of([] { parse_json("", "f"); }), "f:1:1: this is no JSON");
  EXPECT_EQ(error_of([] { parse_json("{\"a\": \"\xff\"}", "f"); }), "f:1:8: this is not UTF-8");
  EXPECT_EQ(error_of([] { parse_json("[1e999]", "f"); }), "f: this JSON holds a number that is too large");
  EXPECT_EQ(error_of([] { parse_json("{} {}", "f"); }), "f:1:4: this is no JSON");
}

TEST(ForeignJson, RefusesDeepNestingAndIgnoresBracketsInTexts) {
  const auto nested = [](int depth) { return std::string(static_cast<std::size_t>(depth), '[') + std::string(static_cast<std::size_t>(depth), ']'); };
  EXPECT_EQ(error_of([&] { parse_json(nested(kMostJsonDepth), "f"); }), "");
  EXPECT_EQ(error_of([&] { parse_json(nested(kMostJsonDepth + 1), "f"); }), "f:1:65: JSON nested deeper than 64 levels");
  EXPECT_NE(error_of([&] { parse_json(nested(1'000'000), "f"); }), "");
  EXPECT_EQ(error_of([&] { parse_json("\"" + std::string(1000, '[') + "\\\"[[" + "\"", "f"); }), "");
}

TEST(ForeignJson, EveryAccessChecksTypeAndRangeAndNamesThePath) {
  const Json json = parse_json(R"({"n": 3, "x": 1.5, "t": "a", "b": true, "o": {"big": 18446744073709551615, "z": null}, "l": ["p", 7]})", "f");
  const JsonView view(json, "f", ErrorKind::data);
  EXPECT_EQ(view["n"].integer(1, 3), 3);
  EXPECT_EQ(view["n"].number(), 3.0);
  EXPECT_EQ(view["x"].number(), 1.5);
  EXPECT_EQ(view["t"].text(), "a");
  EXPECT_TRUE(view["b"].boolean());
  EXPECT_FALSE(view["o"].find("z"));
  EXPECT_EQ(view["l"].elements().at(1).integer(0, 10), 7);
  EXPECT_EQ(view["o"].members().front().first, "big");
  EXPECT_EQ(error_of([&] { static_cast<void>(view["n"].integer(4, 9)); }), "f: n: expected an integer from 4 to 9 but found 3");
  EXPECT_EQ(error_of([&] { static_cast<void>(view["x"].integer(0, 9)); }), "f: x: expected an integer from 0 to 9 but found 1.5");
  EXPECT_EQ(error_of([&] { static_cast<void>(view["o"]["big"].integer(-5, std::numeric_limits<std::int64_t>::max())); }),
            "f: o.big: expected an integer from -5 to 9223372036854775807 but found 18446744073709551615");
  EXPECT_EQ(error_of([&] { static_cast<void>(view["t"].number()); }), "f: t: expected a number but found \"a\"");
  EXPECT_EQ(error_of([&] { static_cast<void>(view["l"].texts()); }), "f: l[1]: expected a text but found 7");
  EXPECT_EQ(error_of([&] { static_cast<void>(view["none"]); }), "f: none is missing");
  EXPECT_EQ(error_of([&] { static_cast<void>(view["n"]["m"]); }), "f: n: expected an object but found 3");
  EXPECT_EQ(error_of([&] { static_cast<void>(view["t"].text(0)); }), "f: t: expected a text of at most 0 bytes but found \"a\"");
}

TEST(ForeignJson, ATrialIdIsSixteenHexadecimalDigits) {
  EXPECT_TRUE(is_trial_id("0123456789abcdef"));
  for (const char* other : {"", "0123456789abcde", "0123456789abcdef0", "0123456789ABCDEF", "../../../etc/abcd", "0123456789abcde/"})
    EXPECT_FALSE(is_trial_id(other)) << other;
}

TEST(Checked, SumsAndProductsNeverOverflow) {
  constexpr auto kMost = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(checked_sum(kMost - 1, 1), kMost);
  EXPECT_THROW(checked_sum(kMost, 1), Error);
  EXPECT_THROW(checked_sum(-1, 1), Error);
  EXPECT_EQ(checked_product(kMost, 1), kMost);
  EXPECT_THROW(checked_product(std::int64_t{1} << 32, std::int64_t{1} << 31), Error);
  EXPECT_THROW(checked_product(-1, 0), Error);
  using Shape = std::vector<std::int64_t>;
  EXPECT_EQ(checked_product(Shape{}), 1);
  EXPECT_EQ(checked_product(Shape{3, 4}), 12);
  EXPECT_EQ(checked_product(Shape{3, 0, 4}), 0);
  EXPECT_THROW(checked_product(Shape{0, std::int64_t{1} << 62, 4}), Error);
  EXPECT_THROW(checked_product(Shape{3, -1}), Error);
}

}  // namespace

}  // namespace moesweep
