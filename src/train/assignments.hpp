// Recorded assignments as arrays of a trial's record, `assignments/...`.
#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "moesweep/comm/transport.hpp"
#include "moesweep/routing/recording.hpp"
#include "moesweep/store/record.hpp"

namespace moesweep::train {

/// Collective: every rank's recorded sequences, the same on each rank, sorted.
std::vector<store::Array> assignment_arrays(const routing::Recording& recording, comm::Transport& gang);
/// Adds what a record holds of them; nothing when it holds none. A `corrupt` error, without a place, names the dataset and what is wrong with it:
/// its type or shape, a number out of bounds, or arrays that do not fit together.
void take_assignments(const store::TrialRecord& record, routing::Recording& recording, const routing::Recording::Bounds& bounds = {});
/// The recorded assignments of a trial.h5; a `data` error when it has none. Errors name the file.
std::shared_ptr<const routing::Recording> read_assignments(const std::filesystem::path& path);

}  // namespace moesweep::train
