// The files of other trials that a config names; no torch, MPI or HDF5 here, so that a sweep can be checked before anything runs.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "moesweep/train/config.hpp"

namespace moesweep::train {

/// A file of another trial that a key of the config names.
struct NamedFile {
  std::string key;   ///< `train.init_from`, `routing.import_from`, `routing.replay_from`
  std::string path;  ///< as given: below the working folder unless absolute
  auto operator<=>(const NamedFile&) const = default;
};

/// The files that the trial reads before its first step, each once, in the order of their keys; those of `routing.layers` too.
std::vector<NamedFile> named_files_of(const TrialConfig& config);

/// Why the file cannot be used, as the end of a sentence that begins with "names a file that": "is not there", "is a folder", "cannot be read: ...",
/// "is empty", "is no HDF5 file". Empty when nothing is wrong so far: the content is checked by who reads it.
std::string problem_of(const NamedFile& file);

/// A sentence for each file that the trial names and cannot use: "routing.import_from names a file that is not there: PATH".
std::vector<std::string> problems_of_named_files(const TrialConfig& config);

/// The same of many trials that are seen one by one. Each file is looked at once.
class NamedFiles {
 public:
  struct Problem {
    NamedFile file;
    std::string problem;           ///< see `problem_of`
    std::size_t trials = 0;        ///< that name it
    std::vector<std::string> ids;  ///< of the first `kListed` of them
    std::string sentence() const;  ///< with key, file and trials
  };
  static constexpr std::size_t kListed = 20;

  void see(const std::string& id, const TrialConfig& config);
  /// In the order of key and path.
  std::vector<Problem> problems() const;

 private:
  std::map<NamedFile, Problem> seen_;
};

}  // namespace moesweep::train
