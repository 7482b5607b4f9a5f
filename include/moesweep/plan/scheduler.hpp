// The scheduler: a pure state machine, events in, decisions out. launch drives it with real ranks, `simulate` with a clock of its own.
//
// A world of ranks is one block at first. A block runs jobs whose gang fills it exactly; when the largest open job that fits is smaller, the
// block splits into aligned blocks of that size and a remainder, and each part goes on by itself. Nothing is shared between blocks but the
// board on which jobs are claimed, so no rank hands out work.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

namespace moesweep::plan {

/// A trial as the scheduler sees it.
struct Job {
  std::string id;
  std::int64_t ranks = 1;  ///< of its gang
  double seconds = 0.0;    ///< estimated
  bool preferred = true;   ///< in this launch's own shard: goes first among jobs of its size
};

/// Consecutive ranks of the world.
struct Block {
  std::int64_t first = 0, ranks = 1;
  bool operator==(const Block&) const = default;
};

// Events: what a block learns about a job. All mean that this block need not try it (again).
/// It ran to an end, here or elsewhere.
struct Ended {
  std::size_t job;
};
/// Somebody else runs it.
struct Taken {
  std::size_t job;
};
using Event = std::variant<Ended, Taken>;

// Decisions: what the block does next.
/// Claim it; run it when the claim holds, else report Taken or Ended.
struct Run {
  std::size_t job;
};
/// The block ends here; each part is a block of its own.
struct Split {
  std::vector<Block> parts;
};
/// Nothing is left that fits.
struct Finish {};
using Decision = std::variant<Run, Split, Finish>;

/// One block. Copying is cheap but for one byte a job.
class Scheduler {
 public:
  Scheduler(std::span<const Job> jobs, Block block);

  const Block& block() const { return block_; }
  void on(const Event& event);
  /// What to do next; the same until an event changes it.
  Decision next() const;
  /// The scheduler of one part of a Split, knowing what this one knows.
  Scheduler part(const Block& block) const;

 private:
  struct Queues;  // jobs by gang size, each in order: preferred first, largest first, then by id
  std::shared_ptr<const Queues> queues_;
  Block block_;
  std::vector<char> open_;                                     // by job
  mutable std::map<std::int64_t, std::size_t> next_in_queue_;  // by gang size: all before it are closed
};

/// A job whose gang no block of this world can hold, with the reason for people.
struct Skipped {
  std::size_t job;
  std::string reason;
};
std::vector<Skipped> too_large(std::span<const Job> jobs, std::int64_t world_ranks);

/// What a simulated run took.
struct Simulation {
  double makespan_seconds = 0.0;
  double idle_share = 0.0;           ///< of rank-seconds until the makespan
  double lower_bound_seconds = 0.0;  ///< max(work / ranks, longest job)
  std::size_t jobs_run = 0;
};

/// Runs the scheduler over `ranks` ranks on a simulated clock, every job taking its estimate.
Simulation simulate(std::span<const Job> jobs, std::int64_t ranks);

}  // namespace moesweep::plan
