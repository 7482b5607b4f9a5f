// A sweep as a job array: how many elements, their chunks, walltime and gangs.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "moesweep/core/json.hpp"
#include "moesweep/plan/scheduler.hpp"
#include "moesweep/train/config.hpp"

namespace moesweep::plan {

struct ArrayOptions {
  std::int64_t shards = 0;             ///< elements of the array; 0 chooses from the work
  std::int64_t ranks = 0;              ///< of one shard; 0: those of the largest gang
  std::int64_t max_array_size = 1001;  ///< Slurm's MaxArraySize: indices of one array go to one less
  std::int64_t max_jobs = 0;           ///< that a user may have queued or running; 0: no limit. More shards than that are not planned.
  double limit_seconds = std::numeric_limits<double>::infinity();  ///< walltime limit of the partition
  double margin = 1.3;                                             ///< the walltime is the simulated time of the longest shard times this
  double startup_seconds = 300.0;                                  ///< and this for start, modules and data
  double target_seconds = 4 * 3600.0;                              ///< simulated time of a shard where the number of shards is chosen
};

/// Consecutive shards that are submitted as one array.
struct ArrayChunk {
  std::int64_t first = 0, last = 0;  ///< shards, both in it
  /// Slurm's indices of the chunk, from 0: `0-999`; add `first` for the shard.
  std::string indices() const;
};

struct ArrayPlan {
  std::int64_t shards = 1;
  std::int64_t ranks = 1;             ///< of each
  std::vector<ArrayChunk> chunks;     ///< in order; each within MaxArraySize
  std::vector<double> shard_seconds;  ///< simulated, by shard, without margin and start-up
  double walltime_seconds = 0.0;      ///< to request for each element: whole minutes, at most the limit
  bool requeues = false;              ///< the limit is shorter than a shard needs: elements will be requeued and go on
  double rank_seconds = 0.0;          ///< of all jobs
  std::size_t jobs = 0, skipped = 0;  ///< skipped: too large for the ranks of a shard
  std::vector<std::int64_t> gangs;    ///< sizes of the gangs, largest first
  std::string reason;                 ///< where the number of shards comes from, for people

  /// `0-999 + 1000-1499`: the shards by chunk.
  std::string chunks_in_words() const;
  /// Hours, minutes and seconds as Slurm takes them: `01:30:00`, `2-00:00:00`.
  std::string walltime() const;
  Json json() const;
};

/// The plan of an array for these jobs: deterministic, whatever their order. Errors: `usage` when a limit leaves no room for one shard.
ArrayPlan plan_array(std::span<const Job> jobs, const ArrayOptions& options);

/// Seconds as Slurm takes them: `01:30:00`, `2-00:00:00`; a fraction counts as a second.
std::string slurm_time(double seconds);
/// Reads minutes, `MM:SS`, `HH:MM:SS`, `D-HH`, `D-HH:MM`, `D-HH:MM:SS` (as Slurm does), or a number with s, min, m, h or d; infinite for
/// `UNLIMITED` and `infinite`. A `usage` error says what is allowed.
double parse_time(const std::string& text);

/// A gang: ranks that share experts, and how often that is repeated.
struct Gang {
  std::int64_t expert = 1, data = 1;
  double memory_bytes = 0.0;  ///< of each rank, estimated
};
/// The gang with the fewest ranks whose estimated memory (`cost_of`) is within the limit; ranks that share experts divide `model.experts`, are at
/// most `max_expert_ranks` (say, those of a node), and rather more of them than repetitions. Nothing when none fits.
std::optional<Gang> suggest_gang(const train::TrialConfig& config, double memory_limit_bytes, std::int64_t max_expert_ranks);

}  // namespace moesweep::plan
