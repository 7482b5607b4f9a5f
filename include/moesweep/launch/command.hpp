// Small commands of the system (squeue, sbatch, nvidia-smi), without a shell.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace moesweep::launch {

/// How a command ended.
struct CommandResult {
  int exit_code = -1;      ///< 128 and the signal when one ended it; -1 when it was not started or ran out of time
  bool started = false;    ///< false: there is no such program, or no right to it
  bool timed_out = false;  ///< it was ended after the timeout; what it asked for may still happen
  std::string output, error;

  bool ok() const { return exit_code == 0; }
};

/// Runs a command with nothing on its standard input. When it takes longer than the timeout, it and its children are ended.
CommandResult run_command(const std::vector<std::string>& command, double timeout_seconds);

/// Standard output of a command that ended with 0 within the timeout; nothing otherwise.
std::optional<std::string> output_of(const std::vector<std::string>& command, double timeout_seconds);

}  // namespace moesweep::launch
