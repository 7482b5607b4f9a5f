// See include/moesweep/launch/retry.hpp.
#include "moesweep/launch/retry.hpp"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>

#include "claim.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/launch/status.hpp"
#include "own_files.hpp"
#include "process.hpp"

namespace moesweep::launch {

namespace fs = std::filesystem;

const std::set<std::string>& retriable_states() {
  static const std::set<std::string> states{"crashed", "diverged", "failed", "out_of_memory", "timed_out"};
  return states;
}

std::vector<std::string> retry_trials(const fs::path& sweep_folder, const std::set<std::string>& states, const std::vector<std::string>& trials) {
  for (const std::string& state : states)
    if (!retriable_states().contains(state))
      throw Error(ErrorKind::usage, fmt::format("trials in state '{}' cannot be tried again", state), "--state",
                  fmt::format("states that can: {}", fmt::join(retriable_states(), ", ")));
  const Standings standings = standings_of(sweep_folder, read_outline(sweep_folder));
  const auto begins = [](const std::string& id, const std::string& beginning) { return id.starts_with(beginning); };
  for (const std::string& beginning : trials)
    if (beginning.empty() || std::ranges::none_of(standings.trials, [&](const TrialStanding& trial) { return begins(trial.id, beginning); }))
      throw Error(ErrorKind::usage, fmt::format("no trial of this folder has an id that begins with '{}'", beginning), sweep_folder.string(),
                  "`moesweep status DIR --json` lists them");
  std::vector<std::string> chosen;
  std::optional<store::JournalWriter> journal;
  std::optional<Error> failure;  // the first: the other trials are forgiven all the same
  for (const TrialStanding& trial : standings.trials) {
    if (!states.contains(trial.status.state)) continue;
    if (!trials.empty() && std::ranges::none_of(trials, [&](const std::string& beginning) { return begins(trial.id, beginning); })) continue;
    const fs::path file = trial_file(sweep_folder, trial.id);
    try {
      const auto [last, trouble] = attempts_of(file.parent_path());
      if (!trouble.empty()) throw Error(ErrorKind::io, trouble, sweep_folder.string());
      // Before the journal says that the trial is pending: what stands in the way of it leaves the trial as it is.
      set_aside(file, ".retried");
      if (!journal) journal.emplace(sweep_folder, new_launch_id(), "retry");
      journal->write("retry", {{"trial", trial.id}, {"attempt", last}, {"state", trial.status.state}});
    } catch (const Error& error) {
      if (!failure) failure.emplace(error.kind(), fmt::format("trial {} stays as it is: {}", trial.id, error.message()), error.where(), error.hint());
      continue;
    }
    chosen.push_back(trial.id);
  }
  if (failure) throw Error(*failure);
  return chosen;
}

}  // namespace moesweep::launch
