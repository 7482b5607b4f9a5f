// Field lists: binding, ranges, dumps, identity and loading, on a struct made for the purpose.
#include "moesweep/core/fields.hpp"

#include <gtest/gtest.h>

#include <array>

#include "moesweep/core/error.hpp"

namespace moesweep {

namespace {

enum class Colour { red, green };

struct Inner {
  double weight = 0.5;
  std::int64_t threads = 1;
  void list(FieldList& fields) {
    fields.add("weight", weight, "a weight").more_than(0).at_most(2);
    fields.add("threads", threads, "threads").execution();
  }
};

struct Outer {
  std::int64_t count = 3;
  bool flag = false;
  std::string text = "a";
  std::string picked = "x";
  Colour colour = Colour::red;
  std::optional<std::int64_t> tokens;
  std::optional<double> factor = 1.5;
  std::vector<std::string> names{"n"};
  Inner inner;
  std::vector<Inner> others;
  void list(FieldList& fields);
};

/// Holds structs by name, of its own kind too.
struct Divided {
  double share = 0.5;
  std::optional<std::int64_t> limit;
  Inner inner;
  std::vector<Inner> others;
  std::map<std::string, Divided> parts;
  void list(FieldList& fields) {
    fields.add("share", share, "a share").at_least(0);
    fields.add("limit", limit, "a limit");
    fields.add_section("inner", inner, "a section");
    fields.add_sections("others", others, "further ones");
    fields.add_section_map("parts", parts, "by name");
  }
};

}  // namespace

template <>
struct EnumNames<Colour> {
  static constexpr std::array names{"red", "green"};
};

namespace {

void Outer::list(FieldList& fields) {
  fields.add("count", count, "how many").at_least(1).in_unit("things");
  fields.add("flag", flag, "yes or no");
  fields.add("text", text, "words");
  fields.add("picked", picked, {"x", "y"}, "one of those known at run time");
  fields.add("colour", colour, "a colour");
  fields.add("tokens", tokens, "length");
  fields.add("factor", factor, "a factor").at_least(1);
  fields.add("names", names, "names");
  fields.add_section("inner", inner, "a section");
  fields.add_sections("others", others, "further ones");
}

std::string reason(Outer& outer, const char* name, const Json& value) {
  const FieldList fields = fields_of(outer);
  return check_value(*fields.find(name), value);
}

}  // namespace

TEST(Fields, DumpGivesEveryValue) {
  Outer outer;
  EXPECT_EQ(fields_of(outer).dump().dump(),
            R"({"count":3,"flag":false,"text":"a","picked":"x","colour":"red","tokens":null,"factor":1.5,"names":["n"],)"
            R"("inner":{"weight":0.5,"threads":1},"others":[]})");
}

TEST(Fields, LoadIsTheInverseOfDump) {
  Outer changed;
  changed.count = 9;
  changed.flag = true;
  changed.picked = "y";
  changed.colour = Colour::green;
  changed.tokens = 7;
  changed.factor.reset();
  changed.names = {};
  changed.inner.weight = 1.25;
  changed.others = {Inner{.weight = 1, .threads = 2}, Inner{}};
  Outer copy;
  copy.others.resize(5);
  load(fields_of(copy), fields_of(changed).dump());
  EXPECT_EQ(fields_of(copy).dump(), fields_of(changed).dump());
  EXPECT_EQ(copy.colour, Colour::green);
  EXPECT_EQ(copy.factor, std::nullopt);
  EXPECT_EQ(copy.others.size(), 2u);
}

TEST(Fields, LoadNamesThePathOfWhatIsWrong) {
  const auto message = [](const char* text) {
    Outer outer;
    try {
      load(fields_of(outer), Json::parse(text));
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_EQ(message(R"({"inner":{"wait":1}})"), "unknown key 'inner.wait'");
  EXPECT_EQ(message(R"({"inner":{"weight":3}})"), "inner.weight: expected number > 0 and <= 2 but found 3");
  EXPECT_EQ(message(R"({"others":[{},{"weight":"x"}]})"), "others[1].weight: expected number > 0 and <= 2 but found \"x\"");
  EXPECT_EQ(message(R"({"inner":3})"), "inner: expected mapping but found 3");
}

TEST(Fields, TypesAndRangesAreChecked) {
  Outer outer;
  EXPECT_EQ(reason(outer, "count", 1), "");
  EXPECT_EQ(reason(outer, "count", 0), "expected integer >= 1");
  EXPECT_EQ(reason(outer, "count", 1.5), "expected integer >= 1");
  EXPECT_EQ(reason(outer, "count", nullptr), "expected integer >= 1");
  EXPECT_EQ(reason(outer, "flag", 1), "expected true or false");
  EXPECT_EQ(reason(outer, "text", 1), "expected text");
  EXPECT_EQ(reason(outer, "picked", "z"), "expected one of x, y");
  EXPECT_EQ(reason(outer, "colour", "blue"), "expected one of red, green");
  EXPECT_EQ(reason(outer, "tokens", nullptr), "");
  EXPECT_EQ(reason(outer, "factor", 1), "");
  EXPECT_EQ(reason(outer, "factor", 0.5), "expected number >= 1 or none");
  EXPECT_EQ(reason(outer, "names", Json::array({"a", 1})), "expected list of texts");
  EXPECT_EQ(reason(outer, "others", Json::object()), "expected list of mappings");
}

TEST(Fields, AMaximumThatOnlyPreventsOverflowIsNamedToWhoExceedsIt) {
  std::int64_t steps = 1;
  double seconds = 1;
  std::optional<std::int64_t> tokens;
  FieldList fields;
  fields.add("steps", steps, "").at_least(1).at_most(1e9);
  fields.add("seconds", seconds, "").more_than(0).at_most(1e8);
  fields.add("tokens", tokens, "").at_least(1).at_most(1e15);
  EXPECT_EQ(type_in_words(*fields.find("steps")), "integer >= 1");
  EXPECT_EQ(check_value(*fields.find("steps"), 0), "expected integer >= 1");
  EXPECT_EQ(check_value(*fields.find("steps"), 1000000000), "");
  EXPECT_EQ(check_value(*fields.find("steps"), 1000000001), "expected integer >= 1 and <= 1000000000");
  EXPECT_EQ(check_value(*fields.find("seconds"), 1e9), "expected number > 0 and <= 100000000");
  EXPECT_EQ(check_value(*fields.find("tokens"), 1000000000000001), "expected integer >= 1 and <= 1000000000000000 or none");
  EXPECT_EQ(type_in_words_for(*fields.find("steps"), "1000000001"), "integer >= 1 and <= 1000000000");
  EXPECT_EQ(type_in_words_for(*fields.find("steps"), "1e400"), "integer >= 1 and <= 1000000000");
  EXPECT_EQ(type_in_words_for(*fields.find("steps"), "99999999999999999999"), "integer >= 1 and <= 1000000000");
  EXPECT_EQ(type_in_words_for(*fields.find("steps"), "0"), "integer >= 1");
  EXPECT_EQ(type_in_words_for(*fields.find("steps"), "nan"), "integer >= 1");
}

TEST(Fields, ANumberBeyondTheTypeNamesTheTypesLimits) {
  std::int64_t count = 0;
  double real = 0;
  FieldList fields;
  fields.add("count", count, "");
  fields.add("real", real, "");
  const Field &integer = *fields.find("count"), &number = *fields.find("real");
  EXPECT_EQ(type_in_words_for(integer, "9223372036854775807"), "integer");
  EXPECT_EQ(type_in_words_for(integer, "9223372036854775808"), "integer >= -9223372036854775808 and <= 9223372036854775807");
  EXPECT_EQ(type_in_words_for(integer, "-9223372036854775809"), "integer >= -9223372036854775808 and <= 9223372036854775807");
  EXPECT_EQ(type_in_words_for(number, "1e400"), "number >= -1.7976931348623157e+308 and <= 1.7976931348623157e+308");
  EXPECT_EQ(type_in_words_for(number, "1e400x"), "number");
}

TEST(Fields, NumbersAreDecimalWithoutBlanksAndLeadingZeros) {
  EXPECT_EQ(number_of_text(FieldType::integer, "-12"), -12);
  EXPECT_EQ(number_of_text(FieldType::integer, "+12"), 12);
  EXPECT_EQ(number_of_text(FieldType::real, "-1.5e3"), -1500.0);
  for (const char* text : {"", " 1", "1 ", "0x10", "010", "1e3", "1.0", "nan", "inf", "--1", "+-1", "9223372036854775808"})
    EXPECT_TRUE(number_of_text(FieldType::integer, text).is_null()) << text;
  for (const char* text : {"", " 1", "1 ", "0x10", "010.5", "nan", "inf", "-inf", "1e400", "-1e400", "1,5", "+-1", "."})
    EXPECT_TRUE(number_of_text(FieldType::real, text).is_null()) << text;
}

TEST(Fields, IdentityHoldsWhatDiffersAndIsNoExecution) {
  Outer mine, defaults;
  const auto identity = [&] { return canonical(fields_of(mine).identity(fields_of(defaults))); };
  EXPECT_EQ(identity(), "{}");
  mine.text = "b";
  mine.count = 4;
  mine.inner.weight = 0.1;
  mine.inner.threads = 8;
  mine.tokens = 5;
  EXPECT_EQ(identity(), R"({"count":4,"inner.weight":0.1,"text":"b","tokens":5})");  // by path, threads left out
  mine = Outer{};
  mine.others = {Inner{}, Inner{.weight = 2, .threads = 9}};
  EXPECT_EQ(identity(), R"({"others":[{},{"weight":2.0}]})");
  mine.others.clear();
  mine.factor.reset();
  EXPECT_EQ(identity(), R"({"factor":null})");
}

TEST(Fields, ANewFieldAtItsDefaultRenamesNothing) {
  struct Later : Inner {
    double fresh = 1;
    void list(FieldList& fields) {
      Inner::list(fields);
      fields.add("fresh", fresh, "new in this version");
    }
  };
  Inner before, before_defaults;
  Later after, after_defaults;
  before.weight = after.weight = 0.75;
  EXPECT_EQ(canonical(fields_of(before).identity(fields_of(before_defaults))), canonical(fields_of(after).identity(fields_of(after_defaults))));
}

TEST(Fields, LeavesAreSortedByPathAndBound) {
  Outer outer;
  const std::vector<Leaf> leaves = leaves_of(fields_of(outer));
  std::vector<std::string> paths;
  for (const Leaf& leaf : leaves) paths.push_back(leaf.path);
  EXPECT_EQ(paths, (std::vector<std::string>{"colour", "count", "factor", "flag", "inner.threads", "inner.weight", "names", "others", "picked",
                                             "text", "tokens"}));
  leaves[5].field.set(1.5);
  EXPECT_EQ(outer.inner.weight, 1.5);
  EXPECT_EQ(leaves[4].field.role, Role::execution);
}

TEST(Fields, AMapOfStructsDumpsAndLoads) {
  Divided mine;
  mine.parts["b"].share = 0.25;
  mine.parts["a"].inner.threads = 3;
  mine.parts["a"].others = {Inner{.weight = 2}};
  const Json dump = fields_of(mine).dump();
  EXPECT_EQ(dump["parts"]["b"]["share"], 0.25);
  EXPECT_EQ(dump["parts"]["b"]["parts"], Json::object());
  EXPECT_EQ(dump["parts"].begin().key(), "a");  // by name
  Divided copy;
  copy.parts["gone"];
  load(fields_of(copy), dump);
  EXPECT_EQ(fields_of(copy).dump(), dump);
  EXPECT_EQ(copy.parts.size(), 2u);
  EXPECT_EQ(copy.parts["a"].others.size(), 1u);
  EXPECT_EQ(copy.parts["a"].share, 0.5);
  const auto message = [](const char* text) {
    Divided divided;
    try {
      load(fields_of(divided), Json::parse(text));
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_EQ(message(R"({"parts":{"x":{"inner":{"wait":1}}}})"), "unknown key 'parts.x.inner.wait'");
  EXPECT_EQ(message(R"({"parts":{"x":{"share":-1}}})"), "parts.x.share: expected number >= 0 but found -1");
  EXPECT_EQ(message(R"({"parts":[1]})"), "parts: expected mapping of names to mappings but found [1]");
}

TEST(Fields, IdentityOfAMapHoldsWhatDiffersInEachPart) {
  Divided mine, defaults;
  const auto identity = [&] { return canonical(fields_of(mine).identity(fields_of(defaults))); };
  EXPECT_EQ(identity(), "{}");
  mine.parts["b"];
  mine.parts["a"].inner.threads = 3;  // execution
  EXPECT_EQ(identity(), R"({"parts":{"a":{},"b":{}}})");
  mine.parts["b"].inner.weight = 2;
  mine.parts["b"].limit = 7;
  mine.parts["b"].others = {Inner{.weight = 1}};
  EXPECT_EQ(identity(), R"({"parts":{"a":{},"b":{"limit":7,"inner.weight":2.0,"others":[{"weight":1.0}]}}})");
  mine.parts.clear();
  EXPECT_EQ(identity(), "{}");
}

TEST(Fields, AMapOfStructsIsOneLeaf) {
  Divided divided;
  std::vector<std::string> paths;
  for (const Leaf& leaf : leaves_of(fields_of(divided))) paths.push_back(leaf.path);
  EXPECT_EQ(paths, (std::vector<std::string>{"inner.threads", "inner.weight", "limit", "others", "parts", "share"}));
  EXPECT_EQ(type_in_words(*fields_of(divided).find("parts")), "mapping of names to mappings");
}

TEST(Fields, AFieldListedTwiceIsADefect) {
  struct Twice {
    double a = 0;
    void list(FieldList& fields) {
      fields.add("a", a, "one");
      fields.add("a", a, "two");
    }
  } twice;
  EXPECT_THROW(fields_of(twice), Error);
}

}  // namespace moesweep
