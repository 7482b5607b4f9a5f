// Errors: what a user reads, and the exit code that each kind turns into; JSON objects keep their order.
#include "moesweep/core/error.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <new>
#include <stdexcept>
#include <system_error>

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

TEST(Error, FilesAndMemoryAreNoDefects) {
  const auto of = [](const std::function<void()>& work) {
    try {
      work();
    } catch (const std::exception& exception) {
      return error_of(exception);
    }
    return Error(ErrorKind::internal, "nothing was thrown");
  };
  const Error files = of([] { (void)std::filesystem::file_size("/no/such/file"); });
  EXPECT_EQ(files.kind(), ErrorKind::io);
  EXPECT_EQ(files.where(), "/no/such/file");
  EXPECT_EQ(files.message(), "No such file or directory");
  EXPECT_EQ(of([] { throw std::bad_alloc(); }).kind(), ErrorKind::io);
  EXPECT_EQ(of([] { throw std::bad_alloc(); }).message(), "memory ran out");
  EXPECT_EQ(of([] { throw std::runtime_error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"); }).kind(), ErrorKind::io);
  EXPECT_EQ(of([] { throw std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again)); }).kind(), ErrorKind::io);
  const Error defect = of([] { throw std::out_of_range("map::at"); });
  EXPECT_EQ(defect.kind(), ErrorKind::internal);
  EXPECT_NE(defect.hint().find("defect of moesweep"), std::string::npos);
  const Error known = of([] { throw Error(ErrorKind::data, "what", "where", "hint").thrown_on_every_rank(); });
  EXPECT_EQ(known.kind(), ErrorKind::data);
  EXPECT_TRUE(known.on_every_rank());
}

TEST(Json, ObjectsKeepTheOrderOfTheirKeysAndFloatsRoundTrip) {
  Json value = {{"b", 1}, {"a", 0.1}, {"c", 1e-7}, {"d", 3.0}};
  EXPECT_EQ(value.dump(), R"({"b":1,"a":0.1,"c":1e-07,"d":3.0})");
  const double awkward = 0.1 + 0.2;
  EXPECT_EQ(Json::parse(Json(awkward).dump()).get<double>(), awkward);
}

}  // namespace moesweep
