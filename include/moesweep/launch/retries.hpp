// How often a trial that went wrong is tried again, by what went wrong.
#pragma once

#include <map>
#include <string>

#include "moesweep/store/journal.hpp"

namespace moesweep::launch {

/// Attempts after the first that count against a trial, by the state in which they ended. Walltime, preemption, a node's death and the crash of
/// another trial in the same step count against none.
struct Retries {
  int crashed = 2;
  int failed = 0, out_of_memory = 0, timed_out = 0;

  int of(const std::string& state) const;
  /// Whether an attempt that ends in `state` now, and counts, is the trial's last.
  bool exhausted(const store::TrialStatus& before, const std::string& state) const;
};

/// Reads `crashed=2,failed=1`; `all=N` sets each. Errors are of kind `usage`.
Retries parse_retries(const std::string& text);

/// Whether a trial needs no further attempt: it was said to, or its charges are above the budget of its state.
bool needs_no_attempt(const store::TrialStatus& status, const Retries& retries);

}  // namespace moesweep::launch
