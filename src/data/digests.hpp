// Whether a token store's files are still those that its manifest lists. A file is digested once a machine: a small file in the user's cache folder
// remembers its digest together with its state.
#pragma once

#include <chrono>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

#include "moesweep/data/source.hpp"
#include "regular_file.hpp"

namespace moesweep::data {

/// A file that a manifest lists.
struct ListedFile {
  const RegularFile* file = nullptr;
  std::string name;    ///< as the manifest writes it
  std::string sha256;  ///< as the manifest says
};

struct DigestRules {
  DigestCheck check = DigestCheck::cached;
  /// A file that changed so recently, or has a time in the future, is digested but not remembered: a further change could leave its times as they
  /// are, since file systems round them (some to 2 s).
  std::chrono::nanoseconds settled = std::chrono::seconds(2);
  /// How long to wait for another process that digests the same store here; negative: 60 s, and a second more for each 20 MB of the store.
  std::chrono::milliseconds wait{-1};
};

/// $XDG_CACHE_HOME/moesweep, else ~/.cache/moesweep; empty where neither is an absolute path.
std::filesystem::path cache_folder();

/// Digests those files that are not remembered as they are, and remembers them: in one file of `cache_folder()` per store and host. Processes of one
/// machine do it one after the other, so that all but the first find it done. Where nothing can be remembered, all files are digested each time.
/// Gives how many were digested. Errors: `corrupt` names the first file that has another digest than its manifest says; `io`.
std::size_t check_digests(const std::filesystem::path& store, std::span<const ListedFile> files, const DigestRules& rules = {});

}  // namespace moesweep::data
