// See history.hpp.
#include "history.hpp"

#include <fmt/core.h>

namespace moesweep::launch {

namespace {

std::string text_in(const Json& event, const char* key) {
  const auto found = event.find(key);
  return found != event.end() && found->is_string() ? found->get<std::string>() : "";
}

}  // namespace

History::History(const store::Journal& journal) : states_(store::fold(journal)) {
  struct Culprit {
    std::string trial;
    int attempt;
  };
  std::vector<Culprit> named;  // by the watchdog, whose line has no launch
  for (const Json& event : journal.events) {
    const std::string kind = text_in(event, "event"), trial = text_in(event, "trial");
    const auto number = event.find("attempt");
    if (trial.empty() || number == event.end() || !number->is_number_integer()) continue;
    const auto of_event = number->get<std::int64_t>();
    if (of_event < 0 || of_event > store::kMostAttempt) continue;
    const int which = static_cast<int>(of_event);
    Attempt& attempt = attempts_[trial][which];
    if (kind == "started") {
      attempt.started = true;
      if (const auto owner = event.find("owner"); owner != event.end() && owner->is_object()) attempt.owner = Owner::of_json(*owner);
      attempt.launch = attempt.owner.launch;
      if (const auto ranks = event.find("ranks"); ranks != event.end() && ranks->is_number_integer()) attempt.ranks = ranks->get<int>();
      of_launch_[attempt.launch].emplace_back(trial, which);
    } else if (kind == "ended") {
      const std::string state = text_in(event, "state"), by = text_in(event, "launch");
      attempt.ended = true;
      // As `fold` has it: of two endings `done` wins, else the first by name.
      if (attempt.state.empty() || std::pair(state != "done", state) < std::pair(attempt.state != "done", attempt.state)) attempt.state = state;
      if (by.empty() || attempt.launch.empty() || by == attempt.launch) attempt.ended_by_itself = true;
      if (const auto culprit = event.find("culprit"); culprit != event.end() && culprit->is_boolean() && culprit->get<bool>()) culprits_[by] = trial;
    } else if (kind == "watchdog") {
      attempt.watchdog = text_in(event, "text");
      named.push_back({trial, which});
    }
  }
  for (const Culprit& culprit : named)
    if (const Attempt* attempt = find(culprit.trial, culprit.attempt); !attempt->launch.empty()) culprits_.emplace(attempt->launch, culprit.trial);
}

const History::Attempt* History::find(const std::string& trial, int attempt) const {
  const auto known = attempts_.find(trial);
  if (known == attempts_.end()) return nullptr;
  const auto found = known->second.find(attempt);
  return found == known->second.end() ? nullptr : &found->second;
}

const std::string* History::ending_of(const std::string& trial, int attempt) const {
  const Attempt* found = find(trial, attempt);
  return found != nullptr && found->ended ? &found->state : nullptr;
}

const store::TrialStatus& History::status_of(const std::string& trial) const {
  static const store::TrialStatus none;
  const auto found = states_.find(trial);
  return found == states_.end() ? none : found->second;
}

const Owner* History::owner_of(const std::string& trial, int attempt) const {
  const Attempt* found = find(trial, attempt);
  return found != nullptr && found->started ? &found->owner : nullptr;
}

std::vector<History::Open> History::open_in(const std::string& launch) const {
  std::vector<Open> open;
  if (const auto begun = of_launch_.find(launch); begun != of_launch_.end())
    for (const auto& [trial, attempt] : begun->second)
      if (const Attempt* found = find(trial, attempt); !found->ended || !found->ended_by_itself) open.push_back({trial, attempt, found->ranks});
  return open;
}

int History::ranks_of(const std::string& trial, int attempt) const {
  const Attempt* found = find(trial, attempt);
  return found == nullptr ? 0 : found->ranks;
}

const std::string& History::watchdog_of(const std::string& trial, int attempt) const {
  static const std::string silent;
  const Attempt* found = find(trial, attempt);
  return found == nullptr ? silent : found->watchdog;
}

std::string History::culprit_of(const std::string& launch) const {
  const auto found = culprits_.find(launch);
  return found == culprits_.end() ? "" : found->second;
}

Verdict judge(const History& history, const std::string& trial, int attempt, const Owner& owner, const std::string& loss, const std::string& outside,
              const std::function<bool(const History::Open&)>& was_asked_to_stop) {
  if (const std::string& said = history.watchdog_of(trial, attempt); !said.empty()) return {"crashed", said + "; " + loss, true, false};
  if (!outside.empty()) return {"preempted", outside, false, false};
  if (was_asked_to_stop({trial, attempt, history.ranks_of(trial, attempt)}))
    return {"preempted", loss + ", after it was asked to stop", false, false};
  if (const std::string culprit = history.culprit_of(owner.launch); !culprit.empty() && culprit != trial)
    return {"preempted", fmt::format("its step died with trial {}", culprit), false, false};
  auto others = history.open_in(owner.launch);
  std::erase_if(others, [&](const History::Open& other) { return other.trial == trial || was_asked_to_stop(other); });
  if (!others.empty())
    return {"crashed", fmt::format("{} with {} further trials open: each of them runs alone next", loss, others.size()), false, true};
  return {"crashed", loss, true, false};
}

Json ending_fields(const Verdict& verdict, const store::TrialStatus& before, const Retries& retries) {
  return {{"state", verdict.state},     {"reason", verdict.reason},   {"seconds", 0.0},
          {"charged", verdict.charged}, {"suspect", verdict.suspect}, {"final", verdict.charged && retries.exhausted(before, verdict.state)}};
}

}  // namespace moesweep::launch
