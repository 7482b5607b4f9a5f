// What the journal says of every attempt, and who is to blame for one that was lost.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "moesweep/launch/retries.hpp"
#include "moesweep/store/journal.hpp"
#include "process.hpp"

namespace moesweep::launch {

/// An index of a journal's events.
class History {
 public:
  History() = default;
  explicit History(const store::Journal& journal);

  /// How the attempt ended; null when no line says so.
  const std::string* ending_of(const std::string& trial, int attempt) const;
  const store::TrialStatus& status_of(const std::string& trial) const;
  /// Owner of an attempt as its `started` line has it; null when there is none.
  const Owner* owner_of(const std::string& trial, int attempt) const;

  /// An attempt at a trial.
  struct Open {
    std::string trial;
    int attempt = 0, ranks = 1;
  };
  /// What the launch had begun and not ended itself.
  std::vector<Open> open_in(const std::string& launch) const;
  /// Ranks of an attempt's gang; 0 when no line says so.
  int ranks_of(const std::string& trial, int attempt) const;
  /// What the watchdog of the attempt said; empty when it was silent.
  const std::string& watchdog_of(const std::string& trial, int attempt) const;
  /// The trial for whose failure the launch ended, as a process of it wrote down when it died; empty when none did.
  std::string culprit_of(const std::string& launch) const;

 private:
  struct Attempt {
    std::string launch;  ///< that began it
    Owner owner;
    int ranks = 0;
    bool started = false, ended = false, ended_by_itself = false;
    std::string state, watchdog;
  };
  const Attempt* find(const std::string& trial, int attempt) const;

  std::map<std::string, std::map<int, Attempt>> attempts_;
  std::map<std::string, std::vector<std::pair<std::string, int>>> of_launch_;
  std::map<std::string, std::string> culprits_;  ///< by launch
  std::map<std::string, store::TrialStatus> states_;
};

/// How an attempt whose owner is gone is written down.
struct Verdict {
  std::string state;  ///< crashed, or preempted when it was no trial's fault
  std::string reason;
  bool charged = false;  ///< it counts against the trial
  bool suspect = false;  ///< it may have been this trial: its next attempt runs alone
};

/// `loss` is how it is known that the owner is gone; `outside` why its step ended from outside (requeue, time limit, a node's death), or empty;
/// `was_asked_to_stop` whether all ranks of an attempt had been when they died. A trial pays when its own watchdog named it, or when nothing else
/// can have been it: another trial that was open in its launch and had not been asked to stop. (When a rank dies, the launcher asks the others to
/// stop before it kills them.) When another one is named, when the step ended from outside, or when it was asked to stop, it is preempted; else it
/// is a suspect, which costs nothing.
Verdict judge(const History& history, const std::string& trial, int attempt, const Owner& owner, const std::string& loss, const std::string& outside,
              const std::function<bool(const History::Open&)>& was_asked_to_stop);

/// The fields of an `ended` line of a verdict, `final` by the budget.
Json ending_fields(const Verdict& verdict, const store::TrialStatus& before, const Retries& retries);

}  // namespace moesweep::launch
