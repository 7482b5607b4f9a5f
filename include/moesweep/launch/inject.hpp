// Faults for tests of a cluster and of one's own job scripts: a trial that dies, hangs or fails at a step of one's choice.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "moesweep/train/trial.hpp"

namespace moesweep::launch {

/// kill, stop: SIGKILL, SIGSTOP. term, usr2: as Slurm sends them. abort: std::abort. exception: a failure of this rank alone. hang: sleeps for ever.
/// nan: parameters become no numbers. full_disk: no file can grow any more. slow: every step from there takes `seconds` longer.
/// leak: takes memory until there is no more.
enum class FaultKind { kill, stop, term, usr2, abort, exception, hang, nan, full_disk, slow, leak };

struct InjectedFault {
  FaultKind kind = FaultKind::kill;
  std::string trial;           ///< its number in the plan, from 0, or the beginning of its id; empty: every trial
  std::int64_t step = 1;       ///< before which it happens, from 1; of an attempt that goes on from a later step: before its first
  int rank = 0;                ///< of the trial's gang
  std::optional<int> attempt;  ///< in this attempt alone
  double seconds = 1.0;        ///< of `slow`
};

/// Reads `KIND@trial=3,step=30,rank=1,attempt=1`; all but the kind may be left out. Errors are of kind `usage`.
InjectedFault parse_fault(const std::string& text);

/// What train calls before each step; empty when none of the faults is meant for this trial, attempt and rank.
std::function<train::Fault(std::int64_t)> hook_of(const std::vector<InjectedFault>& faults, std::size_t number, const std::string& id, int attempt,
                                                  int rank);

}  // namespace moesweep::launch
