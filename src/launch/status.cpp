// See include/moesweep/launch/status.hpp.
#include "moesweep/launch/status.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "claim.hpp"
#include "process.hpp"

namespace moesweep::launch {

bool is_final(const std::string& state) {
  constexpr std::array kFinal{"done", "diverged", "failed", "out_of_memory", "timed_out"};
  return std::ranges::find(kFinal, state) != kFinal.end();
}

bool any_failed(const std::map<std::string, std::int64_t>& counts) {
  constexpr std::array kHarmless{"done", "pending", "running", "preempted"};
  return std::ranges::any_of(counts,
                             [&](const auto& entry) { return entry.second > 0 && std::ranges::find(kHarmless, entry.first) == kHarmless.end(); });
}

Standings standings_of(const std::filesystem::path& sweep_folder, const SweepPlan& plan) {
  Standings standings;
  standings.name = plan.name;
  const store::Journal journal = store::read_journal(sweep_folder);
  standings.problems = journal.problems;
  const auto states = store::fold(journal);
  const Owner me = this_process("", "");
  for (const PlannedTrial& planned : plan.trials) {
    TrialStanding trial;
    trial.id = planned.id;
    trial.steps = planned.config.steps();
    trial.status.loss = std::nan("");
    if (const auto found = states.find(planned.id); found != states.end()) trial.status = found->second;
    trial.removed = planned.removed;
    if (trial.removed && (trial.status.state == "pending" || trial.status.state == "skipped")) continue;
    if (trial.status.state == "running") {
      const auto folder = trial_folder(sweep_folder, planned.id);
      const auto owner = owner_of(folder, last_attempt(folder));
      if (owner && (owner->launch.empty() || life_of(*owner, me) == Life::gone)) {
        trial.status.state = "crashed";
        trial.status.reason =
            owner->launch.empty() ? "its claim names no process" : fmt::format("process {} on {} is gone", owner->process, owner->host);
      }
    }
    ++standings.counts[trial.status.state];
    standings.trials.push_back(std::move(trial));
  }
  return standings;
}

Json Standings::json() const {
  Json states = Json::object(), list = Json::array();
  for (const auto& [state, count] : counts) states[state] = count;
  for (const TrialStanding& trial : trials) {
    const auto& status = trial.status;
    Json entry = {
        {"id", trial.id},      {"state", status.state}, {"reason", status.reason}, {"attempts", status.attempts}, {"seconds", status.seconds},
        {"step", status.step}, {"steps", trial.steps},  {"loss", nullptr}};
    if (std::isfinite(status.loss)) entry["loss"] = status.loss;
    if (trial.removed) entry["removed"] = true;
    list.push_back(std::move(entry));
  }
  return {{"name", name}, {"states", std::move(states)}, {"trials", std::move(list)}, {"problems", problems}};
}

}  // namespace moesweep::launch
