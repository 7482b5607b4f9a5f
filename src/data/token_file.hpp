// The tokens of one split of one domain, read from a file of any known encoding.
#pragma once

#include <cstdint>
#include <span>

#include "manifest.hpp"
#include "regular_file.hpp"

namespace moesweep::data {

class TokenFile {
 public:
  /// Checks the file's header and size against the entry; a `corrupt` error names the file and what does not fit.
  TokenFile(SplitEntry entry, std::int64_t vocabulary);

  std::int64_t tokens() const { return entry_.tokens; }
  const SplitEntry& entry() const { return entry_; }
  const RegularFile& file() const { return file_; }

  /// Tokens [start, start + out.size()) of the split; a `corrupt` error when one is outside the vocabulary, an `io` one when the file was cut short
  /// or cannot be read. Several threads may call it.
  void copy(std::int64_t start, std::span<std::int32_t> out) const;

 private:
  SplitEntry entry_;
  std::int64_t vocabulary_;
  RegularFile file_;
};

}  // namespace moesweep::data
