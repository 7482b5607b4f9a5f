// Where the trials of a sweep folder stand, from its plan and journal.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "moesweep/core/json.hpp"
#include "moesweep/launch/folder.hpp"
#include "moesweep/store/journal.hpp"

namespace moesweep::launch {

struct TrialStanding {
  std::string id;
  store::TrialStatus status;
  std::int64_t steps = 0;          ///< of the whole trial
  double tokens_per_second = 0.0;  ///< as its running attempt last told; 0: it has not yet
  bool removed = false;            ///< the sweep file no longer has it
};

/// Trials that ended alike, otherwise than done.
struct Failure {
  std::string state, reason;
  std::vector<std::string> trials;
};

struct Standings {
  std::string name;
  std::vector<TrialStanding> trials;           ///< in the plan's order
  std::map<std::string, std::int64_t> counts;  ///< by state
  std::vector<std::string> problems;           ///< of the journal
  double tokens_per_second = 0.0;              ///< of the running trials that have told theirs
  /// Of what is left, at the speed of now. Nothing when nothing is running, or nobody has told a speed yet.
  std::optional<double> seconds_left;

  /// What went wrong, the most frequent first. Trials that wait, run or were preempted have not ended.
  std::vector<Failure> failures() const;
  /// The trials that are done and took longest, longest first; at most so many.
  std::vector<const TrialStanding*> slowest(std::size_t most) const;
  /// True when no trial waits, runs, or would run again.
  bool all_ended() const;
  /// Gives the trial the state `unreadable`, and `why` as its reason, which names the file.
  void set_unreadable(const std::string& id, const std::string& why);
  Json json() const;
};

/// Opens, without reading them, the files of trials that the journal calls done or diverged, and sets those that cannot be opened just now
/// `unreadable`. A file that is not there is left to `run`. Trials in `known` are not looked at; those that are well are added to it.
void find_unreadable(Standings& standings, const std::filesystem::path& sweep_folder, std::set<std::string>& known);

/// As the journal tells it; a trial whose running attempt has lost its process is `crashed`. A removed trial that never started is left out.
/// Reads plan and journal alone, whatever the number of trials.
Standings standings_of(const std::filesystem::path& sweep_folder, const PlanOutline& plan);
Standings standings_of(const std::filesystem::path& sweep_folder, const SweepPlan& plan);

/// True when one of the counted trials ended otherwise than `done`; waiting, running and preempted ones have not ended.
bool any_failed(const std::map<std::string, std::int64_t>& counts);

}  // namespace moesweep::launch
