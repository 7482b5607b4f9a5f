// Errors: what a user reads, and the exit code that each kind turns into; JSON objects keep their order.
#include "moesweep/core/error.hpp"

#include <gtest/gtest.h>

#include "moesweep/core/json.hpp"

namespace moesweep {

TEST(Error, SaysWhereWhatAndWhatToDo) {
  const Error full(ErrorKind::config, "unknown key 'x'", "a.yaml:1:2", "write y");
  EXPECT_STREQ(full.what(), "a.yaml:1:2: unknown key 'x'\n  write y");
  EXPECT_EQ(full.message(), "unknown key 'x'");
  EXPECT_EQ(full.where(), "a.yaml:1:2");
  EXPECT_EQ(full.hint(), "write y");
  EXPECT_STREQ(Error(ErrorKind::io, "no space").what(), "no space");
}

TEST(Error, EachKindHasItsExitCode) {
  const std::pair<ErrorKind, int> codes[] = {{ErrorKind::usage, 2}, {ErrorKind::config, 3}, {ErrorKind::io, 4},       {ErrorKind::corrupt, 5},
                                             {ErrorKind::mpi, 6},   {ErrorKind::data, 7},   {ErrorKind::internal, 70}};
  for (const auto& [kind, code] : codes) EXPECT_EQ(static_cast<int>(exit_code_of(kind)), code) << name_of(kind);
}

TEST(Error, AssertionsAreInternal) {
  EXPECT_NO_THROW(MOESWEEP_ASSERT(true, "fine"));
  try {
    MOESWEEP_ASSERT(1 + 1 == 3, "sums");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::internal);
    EXPECT_EQ(error.message(), "sums (1 + 1 == 3)");
    EXPECT_NE(error.where().find("error_test.cpp:"), std::string::npos);
  }
}

TEST(Json, ObjectsKeepTheOrderOfTheirKeysAndFloatsRoundTrip) {
  Json value = {{"b", 1}, {"a", 0.1}, {"c", 1e-7}, {"d", 3.0}};
  EXPECT_EQ(value.dump(), R"({"b":1,"a":0.1,"c":1e-07,"d":3.0})");
  const double awkward = 0.1 + 0.2;
  EXPECT_EQ(Json::parse(Json(awkward).dump()).get<double>(), awkward);
}

}  // namespace moesweep
