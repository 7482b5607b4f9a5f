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

/// The record whose datasets are those of `descriptions` below `prefix`. Its id, state and reason are the file's root attributes.
TrialRecord read_record(hid_t file, const std::vector<Description>& descriptions, const std::string& prefix);

/// Reads many trial files. Those of known bytes mostly describe their datasets alike: a description is taken for what it was in an earlier file, and
/// the digest, which covers descriptions, says whether that was so. If not, and for every file of other bytes, all of it is looked at.
class TrialReader {
 public:
  /// As `read_trial`; `found` gets what the file is.
  TrialRecord read(const std::filesystem::path& path, const Published& published = {}, Published* found = nullptr);

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

}  // namespace moesweep::store
