// Processes: who owns a claim, and whether that owner still lives.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "moesweep/core/json.hpp"

namespace moesweep::launch {

/// A process, named so that another machine can ask for it later.
struct Owner {
  std::string launch, writer;
  std::string host;
  std::string machine;  ///< a digest of its machine id: host names may repeat; empty when the machine has none
  std::string boot;     ///< kernel boot id and process namespace: a process id means something only within them
  std::int64_t process = 0;
  std::int64_t started = 0;  ///< clock ticks after boot: tells a reused process id
  std::string slurm_job, slurm_step, slurm_restarts;

  Json json() const;
  /// A `corrupt` error at `where` names a field of a wrong type or range; absent ones are empty.
  static Owner of_json(const Json& json, const std::string& where = {});
};

/// A name for a launch that no other has: time, host, process, and how many launches this process made before.
std::string new_launch_id();

/// This process as an owner.
Owner this_process(const std::string& launch, const std::string& writer);

enum class Life { alive, gone, unknown };

/// Whether the owner still lives, seen from `me`: by launch, process id, Slurm, or a reboot of this very machine since. `unknown` when it
/// cannot be asked from here.
Life life_of(const Owner& owner, const Owner& me);

/// Of an owner that is gone: why its step ended from outside (its job was requeued, ran out of time, lost its node, or its machine was started anew),
/// or nothing when the step died by itself, as far as can be told.
std::string ended_from_outside(const Owner& owner, const Owner& me);

/// Seconds until Slurm ends this job, less a moment to end in; nothing outside a job, without a limit, or when Slurm cannot be asked.
std::optional<double> slurm_seconds_left();

}  // namespace moesweep::launch
