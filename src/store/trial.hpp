// A trial's record inside an HDF5 file: the whole of trial.h5, and a part of a checkpoint.
#pragma once

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

}  // namespace moesweep::store
