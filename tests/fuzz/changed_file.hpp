// Files that a fuzzer changes by the HDF5 API: an input is a small program, whose steps replace datasets, links and attributes of a sound file, and
// which may give the file the digests of its new content. So the checks behind the format, and behind the digest, are reached.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "moesweep/store/record.hpp"

namespace moesweep::fuzz {

/// Two bytes (which file, and what is done at the end), then steps of this many bytes. A last step that is cut short is left out.
inline constexpr std::size_t kHeadBytes = 2, kStepBytes = 16, kMostSteps = 12;

struct Changed {
  std::size_t base = 0;      ///< the file that was changed
  bool as_it_was = false;    ///< no step, so the file is sound
  bool sealed = false;       ///< its digests are those of its content
  bool choice = false;       ///< a bit of the input that the target may use
  std::uint64_t number = 0;  ///< the same
};

/// Writes the changed file to `path`. `bases` are whole HDF5 files.
Changed write_changed(const std::filesystem::path& path, const std::vector<std::string>& bases, std::span<const std::uint8_t> program);

/// Bytes of a file that changed files point to, and that no reader may show.
inline constexpr const char* kSecret = "moesweep-secret!";
/// Ends the process when what was read holds them.
void require_no_secret(std::span<const std::byte> bytes, const std::string& where);
void require_no_secret(const store::TrialRecord& record);

/// MPI for this process alone, HDF5 without printing, and no child process that reads files first. Before the first use of any of them.
void begin();
/// How many identifiers of HDF5 are open: readers close theirs, also when they fail.
std::int64_t open_identifiers();
/// Closes those that writers, which died by an error, leave to the end of the process.
void close_identifiers();

/// A finished trial with arrays of several types and shapes; another one for each `index`.
store::TrialRecord sample_trial(int index);

}  // namespace moesweep::fuzz
