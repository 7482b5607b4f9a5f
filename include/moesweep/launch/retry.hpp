// Gives trials that went wrong a new chance.
#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <vector>

namespace moesweep::launch {

/// States that `retry_trials` can forgive.
const std::set<std::string>& retriable_states();

/// Writes to the journal that the trials which stand in one of `states` (and, where `trials` is not empty, whose id begins with one of its texts) are
/// pending again, all their earlier attempts forgiven. Gives their ids, in the plan's order. A trial of which trial.h5 is there (diverged) has it
/// renamed to trial.h5.retried, or with a number behind it when that is there. A `usage` error for another state, or an id that no trial has, an `io`
/// error when the trial's folder is a link or its file no regular one.
std::vector<std::string> retry_trials(const std::filesystem::path& sweep_folder, const std::set<std::string>& states,
                                      const std::vector<std::string>& trials = {});

}  // namespace moesweep::launch
