// A journal line that a process writes when it dies of its own fault (SIGSEGV, SIGABRT and their like), so that its trial is known as the culprit.
#pragma once

#include <filesystem>
#include <string>

#include "moesweep/core/json.hpp"

namespace moesweep::launch {

/// For its life, a fatal signal appends `fields` as an `ended` line to `file`, its reason completed by the signal's name, and then does what it would
/// have done. One at a time a process; nothing is written otherwise. SIGKILL leaves no time for words.
class LastWords {
 public:
  LastWords(const std::filesystem::path& file, Json fields);
  ~LastWords();
  LastWords(const LastWords&) = delete;
  LastWords& operator=(const LastWords&) = delete;
};

}  // namespace moesweep::launch
