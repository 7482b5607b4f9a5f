// sweep.h5 from a sweep folder: every trial of the plan, finished or not.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "moesweep/comm/mpi.hpp"
#include "moesweep/core/json.hpp"
#include "moesweep/store/aggregate.hpp"
#include "moesweep/train/config.hpp"

namespace moesweep::launch {

struct Aggregation {
  std::filesystem::path file;
  std::int64_t rows = 0, done = 0;
  std::int64_t files_read = 0;  ///< trial files read: new or changed since the earlier aggregate
  std::int64_t rows_kept = 0;   ///< trials taken from the earlier aggregate
};

/// Collective over `world`: reads plan, journal and trial files of `sweep_folder` and writes `file` (empty: DIR/sweep.h5). Trials that the sweep
/// file no longer has are rows that say so in their reason, or are left out when they never started. The file's content does not depend on the number
/// of ranks. When `file` is there and sound, only trial files that are new or changed since are read. Errors are those of `store`, on every rank: a
/// trial file that is damaged or cannot be read just now ends the aggregation by its name, and an aggregate that was there stays.
Aggregation aggregate(const comm::Communicator& world, const std::filesystem::path& sweep_folder, const std::filesystem::path& file = {});

/// The value of every metric array of a trial: the mean of its last row, by the name after the first '/'. A `corrupt` error at `file` names two
/// datasets of one such name.
std::map<std::string, double> metrics_of(const store::TrialRecord& record, const std::filesystem::path& file = {});

/// Adds what an `ended` line tells of a trial's results to its fields, where there is any: `step`, `loss` and `warnings`. Gives the warnings.
/// Errors of `metrics_of`, and a `corrupt` one at `file` when the record's config is none.
std::vector<std::string> add_results(Json& fields, const store::TrialRecord& record, const std::filesystem::path& file);

/// What must be equal between a trial and its reference-router trial: the identity without its `routing.*` keys.
std::string comparison_key(const train::TrialConfig& config);

}  // namespace moesweep::launch
