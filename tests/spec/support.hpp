// A folder of its own for each test, with the process in it, so that messages show short paths.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "moesweep/core/error.hpp"
#include "moesweep/spec/sweep.hpp"

namespace moesweep::spec {

class InFolder : public testing::Test {
 protected:
  void SetUp() override {
    before_ = std::filesystem::current_path();
    std::string name = (std::filesystem::temp_directory_path() / "moesweep-spec-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    std::filesystem::current_path(folder_);
  }
  void TearDown() override {
    std::filesystem::current_path(before_);
    std::filesystem::remove_all(folder_);
  }

  static void write(const std::filesystem::path& path, const std::string& text) {
    if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }

  /// The sweep of this text, written as sweep.yaml.
  static Sweep sweep(const std::string& text, const std::vector<std::string>& overrides = {}) {
    write("sweep.yaml", text);
    return load_sweep("sweep.yaml", overrides);
  }

  /// What the error says, with its kind when that is not `config`; "accepted" when there is none.
  template <class Action>
  static std::string message_of(Action action) {
    try {
      action();
    } catch (const Error& error) {
      return (error.kind() == ErrorKind::config ? "" : std::string(name_of(error.kind())) + " ") + error.what();
    }
    return "accepted";
  }

 private:
  std::filesystem::path before_, folder_;
};

}  // namespace moesweep::spec
