// See include/moesweep/launch/status.hpp.
#include "moesweep/launch/status.hpp"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <unordered_map>

#include "claim.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/core/publish.hpp"
#include "own_files.hpp"
#include "process.hpp"

namespace moesweep::launch {

namespace {

constexpr std::array kHarmless{"done", "pending", "running", "preempted"};

bool is_harmless(const std::string& state) { return std::ranges::find(kHarmless, state) != kHarmless.end(); }

/// What the journal says of a trial's last attempt beside its status.
struct LastAttempt {
  std::int64_t attempt = 0, step = -1;
  double tokens_per_second = 0.0;
  const Json* owner = nullptr;  ///< of its `started`
};

std::unordered_map<std::string, LastAttempt> last_attempts(const store::Journal& journal) {
  std::unordered_map<std::string, LastAttempt> last;
  for (const Json& event : journal.events) {
    const auto kind = event.find("event"), trial = event.find("trial"), number = event.find("attempt");
    if (trial == event.end() || !trial->is_string() || number == event.end() || !number->is_number_integer()) continue;
    if (*kind != "started" && *kind != "progress") continue;
    LastAttempt& mine = last[trial->get_ref<const std::string&>()];
    const auto attempt = number->get<std::int64_t>();
    if (attempt < mine.attempt) continue;
    if (attempt > mine.attempt) mine = {attempt, -1, 0.0, nullptr};
    if (*kind == "started") {
      if (const auto owner = event.find("owner"); owner != event.end() && owner->is_object()) mine.owner = &*owner;
    } else if (const auto step = event.find("step"); step != event.end() && step->is_number_integer() && step->get<std::int64_t>() > mine.step) {
      mine.step = step->get<std::int64_t>();
      const auto speed = event.find("tokens_per_second");
      if (speed != event.end() && speed->is_number()) mine.tokens_per_second = speed->get<double>();
    }
  }
  return last;
}

/// Why a running attempt is known to be lost; empty when it is not.
class Lives {
 public:
  std::string loss_of(const Owner& owner) {
    if (owner.launch.empty()) return "its claim names no process";
    const auto [known, is_new] = gone_.try_emplace(owner.launch + " " + owner.writer + " " + std::to_string(owner.process), false);
    if (is_new) known->second = life_of(owner, me_) == Life::gone;
    return known->second ? fmt::format("process {} on {} is gone", owner.process, owner.host) : "";
  }

 private:
  Owner me_ = this_process("", "");
  std::unordered_map<std::string, bool> gone_;  // many trials, few processes
};

/// How fast work goes, as seconds of the plan's estimate per second: of each running trial as it told, else as ended trials took.
std::optional<double> seconds_left(const Standings& standings, const std::vector<const OutlinedTrial*>& planned) {
  double left = 0, ended_plan = 0, ended_real = 0, told = 0;
  std::int64_t silent = 0, running = 0;
  for (std::size_t i = 0; i < planned.size(); ++i) {
    const TrialStanding& trial = standings.trials[i];
    const OutlinedTrial& plan = *planned[i];
    const std::string& state = trial.status.state;
    if (state == "done" && trial.status.seconds > 0) {
      ended_plan += plan.seconds;
      ended_real += trial.status.seconds;
    }
    if (trial.status.final || state == "skipped" || trial.removed) continue;
    const double share = state == "running" && plan.steps > 0 ? static_cast<double>(trial.status.step) / static_cast<double>(plan.steps) : 0.0;
    left += plan.seconds * (1.0 - std::clamp(share, 0.0, 1.0));
    if (state != "running") continue;
    ++running;
    if (trial.tokens_per_second > 0 && plan.training_tokens > 0)
      told += trial.tokens_per_second * plan.seconds / static_cast<double>(plan.training_tokens);
    else ++silent;
  }
  if (running == 0) return std::nullopt;
  const double usual = ended_real > 0 ? ended_plan / ended_real : running > silent ? told / static_cast<double>(running - silent) : 0.0;
  const double speed = told + usual * static_cast<double>(silent);
  if (speed <= 0) return std::nullopt;
  return left / speed;
}

}  // namespace

bool any_failed(const std::map<std::string, std::int64_t>& counts) {
  return std::ranges::any_of(counts, [&](const auto& entry) { return entry.second > 0 && !is_harmless(entry.first); });
}

Standings standings_of(const std::filesystem::path& sweep_folder, const PlanOutline& plan) {
  Standings standings;
  standings.name = plan.name;
  const store::Journal journal = store::read_journal(sweep_folder);
  standings.problems = journal.problems;
  const auto states = store::fold(journal);
  const auto last = last_attempts(journal);
  Lives lives;
  std::vector<const OutlinedTrial*> planned;
  for (const OutlinedTrial& outlined : plan.trials) {
    TrialStanding trial;
    trial.id = outlined.id;
    trial.steps = outlined.steps;
    trial.status.loss = std::nan("");
    if (const auto found = states.find(outlined.id); found != states.end()) trial.status = found->second;
    trial.removed = outlined.removed;
    if (trial.removed && (trial.status.state == "pending" || trial.status.state == "skipped")) continue;
    if (trial.status.state == "running") {
      const auto known = last.find(trial.id);
      std::optional<Owner> owner;
      if (known != last.end() && known->second.owner != nullptr) {
        owner = Owner::of_json(*known->second.owner, "the journal");
      } else {
        const auto folder = trial_folder(sweep_folder, outlined.id);
        owner = owner_of(folder, last_attempt(folder));
      }
      if (const std::string loss = owner ? lives.loss_of(*owner) : ""; !loss.empty()) {
        trial.status.state = "crashed";
        trial.status.reason =
            loss + last_collectives(trial_folder(sweep_folder, trial.id), known != last.end() ? static_cast<int>(known->second.attempt)
                                                                                              : last_attempt(trial_folder(sweep_folder, trial.id)));
      } else if (known != last.end()) {
        trial.tokens_per_second = known->second.tokens_per_second;
        standings.tokens_per_second += trial.tokens_per_second;
      }
    }
    ++standings.counts[trial.status.state];
    standings.trials.push_back(std::move(trial));
    planned.push_back(&outlined);
  }
  standings.seconds_left = seconds_left(standings, planned);
  return standings;
}

Standings standings_of(const std::filesystem::path& sweep_folder, const SweepPlan& plan) { return standings_of(sweep_folder, outline_of(plan)); }

void Standings::set_unreadable(const std::string& id, const std::string& why) {
  for (TrialStanding& trial : trials) {
    if (trial.id != id) continue;
    if (const auto count = counts.find(trial.status.state); count != counts.end() && --count->second == 0) counts.erase(count);
    trial.status.state = "unreadable";
    trial.status.reason = why;
    ++counts[trial.status.state];
  }
}

void find_unreadable(Standings& standings, const std::filesystem::path& sweep_folder, std::set<std::string>& known) {
  std::map<std::string, std::string> found;
  for (const TrialStanding& trial : standings.trials) {
    if ((trial.status.state != "done" && trial.status.state != "diverged") || known.contains(trial.id)) continue;
    const auto file = trial_file(sweep_folder, trial.id);
    std::string why = trouble_with_folder(file.parent_path());
    if (why.empty() && is_absent(file)) continue;
    try {
      if (why.empty()) ::close(open_regular(file));
    } catch (const Error& error) {
      why = fmt::format("{}: {}", file.string(), error.message());
    }
    if (why.empty()) known.insert(trial.id);
    else found.emplace(trial.id, std::move(why));
  }
  for (const auto& [id, why] : found) standings.set_unreadable(id, why);
}

std::vector<Failure> Standings::failures() const {
  std::map<std::pair<std::string, std::string>, std::vector<std::string>> groups;
  for (const TrialStanding& trial : trials)
    if (!is_harmless(trial.status.state)) groups[{trial.status.state, trial.status.reason}].push_back(trial.id);
  std::vector<Failure> failures;
  for (auto& [key, ids] : groups) failures.push_back({key.first, key.second, std::move(ids)});
  std::ranges::stable_sort(failures, std::greater<>(), [](const Failure& failure) { return failure.trials.size(); });
  return failures;
}

std::vector<const TrialStanding*> Standings::slowest(std::size_t most) const {
  std::vector<const TrialStanding*> done;
  for (const TrialStanding& trial : trials)
    if (trial.status.state == "done" && trial.status.seconds > 0) done.push_back(&trial);
  std::ranges::stable_sort(done, std::greater<>(), [](const TrialStanding* trial) { return trial->status.seconds; });
  done.resize(std::min(most, done.size()));
  return done;
}

bool Standings::all_ended() const {
  return std::ranges::all_of(trials,
                             [](const TrialStanding& trial) { return trial.removed || trial.status.final || trial.status.state == "skipped"; });
}

Json Standings::json() const {
  Json states = Json::object(), list = Json::array(), failed = Json::array();
  for (const auto& [state, count] : counts) states[state] = count;
  for (const Failure& failure : failures())
    failed.push_back({{"state", failure.state}, {"reason", failure.reason}, {"count", failure.trials.size()}, {"trials", failure.trials}});
  for (const TrialStanding& trial : trials) {
    const auto& status = trial.status;
    Json entry = {
        {"id", trial.id},      {"state", status.state}, {"reason", status.reason}, {"attempts", status.attempts}, {"seconds", status.seconds},
        {"step", status.step}, {"steps", trial.steps},  {"loss", nullptr}};
    if (std::isfinite(status.loss)) entry["loss"] = status.loss;
    if (status.state == "running") entry["tokens_per_second"] = trial.tokens_per_second > 0 ? Json(trial.tokens_per_second) : Json();
    if (!status.warnings.empty()) entry["warnings"] = status.warnings;
    if (trial.removed) entry["removed"] = true;
    list.push_back(std::move(entry));
  }
  Json slow = Json::array();
  for (const TrialStanding* trial : slowest(3)) slow.push_back({{"id", trial->id}, {"seconds", trial->status.seconds}});
  return {{"name", name},
          {"states", std::move(states)},
          {"all_ended", all_ended()},
          {"tokens_per_second", tokens_per_second},
          {"seconds_left", seconds_left ? Json(*seconds_left) : Json()},
          {"failures", std::move(failed)},
          {"slowest", std::move(slow)},
          {"trials", std::move(list)},
          {"problems", problems}};
}

}  // namespace moesweep::launch
