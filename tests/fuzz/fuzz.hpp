// What the fuzz targets share. An input gives a result or an error that a user reads; whatever else happens is a finding and ends the process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "../support/scratch.hpp"
#include "moesweep/core/error.hpp"
#include "spec/limits.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace moesweep::spec {

/// So low that no input takes long by what it rightly asks for.
inline constexpr Limits kFuzzLimits{.trials = 300, .values = 2000, .files = 50};

inline void require(bool holds, const std::string& sentence) {
  if (holds) return;
  std::fprintf(stderr, "finding: %s\n", sentence.c_str());
  std::abort();
}

/// Whether the action gives a result; an error that is no user's, or says nothing, is a finding, and so is every other exception.
template <class Action>
bool accepted(Action action) {
  try {
    action();
    return true;
  } catch (const Error& error) {
    require(error.kind() == ErrorKind::config || error.kind() == ErrorKind::usage,
            std::string("an error of kind ") + name_of(error.kind()) + ": " + error.what());
    require(!error.message().empty(), "an error without a message");
    require(std::string(error.what()).size() < 64 * 1024, "an error of more than 64 KiB");
    return false;
  }
}

/// What `action` must not refuse: a printed form, for example.
template <class Action>
void require_accepted(Action action, const std::string& what) {
  try {
    action();
  } catch (const Error& error) {
    require(false, what + ": " + error.what());
  }
}

/// An empty folder, so that an input names no file but those of configs/.
inline void go_to_empty_folder() {
  static const testing_support::Scratch folder("moesweep-fuzz");
  static const bool once = (std::filesystem::current_path(folder.path()), true);
  (void)once;
}

}  // namespace moesweep::spec
