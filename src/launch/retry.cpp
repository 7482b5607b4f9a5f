// See include/moesweep/launch/retry.hpp.
#include "moesweep/launch/retry.hpp"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "claim.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/launch/status.hpp"
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
  for (const TrialStanding& trial : standings.trials) {
    if (!states.contains(trial.status.state)) continue;
    if (!trials.empty() && std::ranges::none_of(trials, [&](const std::string& beginning) { return begins(trial.id, beginning); })) continue;
    const fs::path file = trial_file(sweep_folder, trial.id);
    if (!journal) journal.emplace(sweep_folder, new_launch_id(), "retry");
    const int last = last_attempt(trial_folder(sweep_folder, trial.id));
    journal->write("retry", {{"trial", trial.id}, {"attempt", last}, {"state", trial.status.state}});
    if (fs::exists(file)) {
      std::error_code failure;
      fs::rename(file, file.string() + ".retried", failure);
      if (failure) throw Error(ErrorKind::io, fmt::format("cannot rename it: {}", failure.message()), file.string());
    }
    chosen.push_back(trial.id);
  }
  return chosen;
}

}  // namespace moesweep::launch
