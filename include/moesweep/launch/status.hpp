// Where the trials of a sweep folder stand, from its plan and journal.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "moesweep/core/json.hpp"
#include "moesweep/launch/folder.hpp"
#include "moesweep/store/journal.hpp"

namespace moesweep::launch {

struct TrialStanding {
  std::string id;
  store::TrialStatus status;
  std::int64_t steps = 0;  ///< of the whole trial
  bool removed = false;    ///< the sweep file no longer has it
};

struct Standings {
  std::string name;
  std::vector<TrialStanding> trials;           ///< in the plan's order
  std::map<std::string, std::int64_t> counts;  ///< by state
  std::vector<std::string> problems;           ///< of the journal

  Json json() const;
};

/// As the journal tells it; a trial whose running attempt has lost its process is `crashed`. A removed trial that never started is left out.
Standings standings_of(const std::filesystem::path& sweep_folder, const SweepPlan& plan);

/// States of a trial that a plain run leaves alone.
bool is_final(const std::string& state);

/// True when one of the counted trials ended otherwise than `done`; waiting, running and preempted ones have not ended.
bool any_failed(const std::map<std::string, std::int64_t>& counts);

}  // namespace moesweep::launch
