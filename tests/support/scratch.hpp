// Folders of tests under the machine's temporary folder, which all users share: made by mkdtemp under a name that nobody can foresee, for their owner
// alone.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <stdexcept>
#include <string>

namespace moesweep::testing_support {

/// Makes an empty folder that only this user can enter; the caller removes it.
inline std::filesystem::path make_scratch(const std::string& prefix) {
  std::string pattern = (std::filesystem::temp_directory_path() / (prefix + "-XXXXXX")).string();
  if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("cannot make a folder " + pattern);
  return pattern;
}

/// One that goes with this value.
class Scratch {
 public:
  explicit Scratch(const std::string& prefix) : path_(make_scratch(prefix)) {}
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace moesweep::testing_support
