// Small commands of the system (squeue, nvidia-smi), without a shell.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace moesweep::launch {

/// Standard output of a command that ended with 0 within the timeout; nothing otherwise.
std::optional<std::string> output_of(const std::vector<std::string>& command, double timeout_seconds);

}  // namespace moesweep::launch
