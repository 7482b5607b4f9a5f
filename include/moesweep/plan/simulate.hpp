// A sweep on a simulated clock: the scheduler's own code under noise, failures, crashes and deadlines.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "moesweep/core/json.hpp"
#include "moesweep/plan/scheduler.hpp"

namespace moesweep::plan {

struct SimulationOptions {
  std::int64_t ranks = 1;
  std::int64_t worlds = 1;              ///< elements of a job array; they share the ranks evenly, each has its shard
  double noise = 0.0;                   ///< sigma of a log-normal factor of mean 1 on each job's seconds
  double failures_per_rank_hour = 0.0;  ///< of nodes; the world of a failed rank starts again and pays nothing
  double crash_probability = 0.0;       ///< of one attempt at a trial, at a random moment of it
  double named_share = 0.0;             ///< of the crashes: the dying process or the watchdog names the trial, which alone pays
  int crash_budget = 2;                 ///< crashes alone, or named, after which a trial is given up
  double walltime_seconds = std::numeric_limits<double>::infinity();  ///< of one allocation of a world; another follows while something is left
  double restart_seconds = 60.0;                                      ///< until a world is there again
  double checkpoint_seconds = 600.0;                                  ///< between checkpoints: the most that an attempt loses when its world dies
  double claim_seconds = 0.0;                                         ///< that a claim takes; claims that others make meanwhile are not seen
  std::uint64_t seed = 1;
};

/// What a simulated run took. Seconds are simulated ones.
struct Simulation {
  double makespan_seconds = 0.0;           ///< until the last trial ended
  double lower_bound_seconds = 0.0;        ///< max(work / ranks, longest job) of the jobs that fit, with their noise
  double idle_share = 0.0;                 ///< of ranks x makespan: no trial running
  double lost_share = 0.0;                 ///< of ranks x makespan: work done twice
  std::size_t jobs_run = 0;                ///< to their end
  std::size_t jobs_crashed = 0;            ///< given up
  std::size_t jobs_skipped = 0;            ///< too large for a world
  std::size_t claims = 0;                  ///< tried
  std::size_t collisions = 0;              ///< of these, lost to another block
  std::size_t allocations = 0;             ///< of all worlds
  std::size_t failures = 0;                ///< of nodes
  std::size_t crashes = 0;                 ///< of attempts
  double dispatch_seconds = 0.0;           ///< rank-seconds spent in claims
  double peak_claims_per_second = 0.0;     ///< won in the busiest second
  double average_claims_per_second = 0.0;  ///< won until the makespan

  double claims_per_trial() const;
  double dispatch_seconds_per_trial() const;  ///< rank-seconds
  Json json() const;
};

/// Runs the scheduler over a simulated clock. The same for the same jobs and options on every machine.
/// A suspect (its world died of a crash while several trials ran, and nothing named the culprit) runs alone after the world's other jobs; only a
/// crash alone, or a named one, counts.
/// Errors: `usage` when an option is out of its range, or when the sweep gets nowhere (worlds die faster than they checkpoint).
Simulation simulate(std::span<const Job> jobs, const SimulationOptions& options);
/// Every job taking its estimate, claims at once, nothing failing.
Simulation simulate(std::span<const Job> jobs, std::int64_t ranks);

}  // namespace moesweep::plan
