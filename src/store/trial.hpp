// A trial's record inside an HDF5 file: the whole of trial.h5, and a part of a checkpoint.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "layout.hpp"
#include "moesweep/store/record.hpp"

namespace moesweep::store {

/// Writes the attributes `id`, `state` and `reason`.
void write_record_attributes(hid_t object, const TrialRecord& record);

/// The record whose datasets are those of `descriptions` below `prefix`; appends the block digests of each when `blocks` is given.
/// Its id, state and reason are the file's root attributes.
TrialRecord read_record(hid_t file, const std::vector<Description>& descriptions, const std::string& prefix, std::vector<std::string>* blocks);

/// Reads many trial files, which mostly describe their datasets alike: it takes a description for what it was in an earlier file, and the digest,
/// which covers descriptions, says whether that was so. If not, the file is read again, all of it.
class TrialReader {
 public:
  /// As `read_trial`; `digest` gets the file's.
  TrialRecord read(const std::filesystem::path& path, std::string* digest = nullptr);

 private:
  struct Known {
    Description description;  ///< all but the shape
    h5::Handle type;
  };
  /// A dataset of the file being read, and the group that it is opened from.
  struct Place {
    std::string path, name;
    hid_t group;
  };
  void list(hid_t group, const std::string& prefix, std::vector<h5::Handle>& groups, std::vector<Place>& places);
  bool read_as_known(hid_t file, TrialRecord& record, std::string& digest);
  std::map<std::string, Known> known_;
  std::map<std::string, bool> is_group_;  ///< by path: what names stood for in the files before
};

/// The digest that a trial file says it has, from its first bytes; empty when it is no sound beginning of one.
std::string claimed_digest(const std::filesystem::path& path);

}  // namespace moesweep::store
