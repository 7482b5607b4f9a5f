// The scheduler: a pure state machine, events in, decisions out. launch drives it with real ranks, `simulate` with a clock of its own.
//
// A world of ranks is one block at first. A block runs jobs whose gang fills it exactly; when it has none that may start, it splits into aligned
// blocks of the largest smaller size and a remainder, and each part goes on by itself. Nothing is shared between blocks but the board on which
// jobs are claimed, so no rank hands out work.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
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
  double seconds = 0.0;    ///< estimated, of what is left of it
  bool preferred = true;   ///< in this launch's own shard: goes first among jobs of its size
};

/// Consecutive ranks of the world.
struct Block {
  std::int64_t first = 0, ranks = 1;
  bool operator==(const Block&) const = default;
};

/// The time that a launch has. Without a deadline both are infinite.
struct TimeLeft {
  double seconds = std::numeric_limits<double>::infinity();  ///< until the deadline
  double whole = std::numeric_limits<double>::infinity();    ///< from the start of the launch to the deadline
  double pace = 1.0;                                         ///< real seconds per estimated second, as measured so far

  /// Whether a job of so many estimated seconds may start: it ends before the deadline, or no launch of this length could end it and at least half
  /// of this one is left, so that it is begun, checkpointed and continued in the next.
  bool allows(double estimated_seconds) const;
};

// Events: what a block learns about a job. All mean that this block need not try it (again). Ranks of a block that hear the same events in the same
// order come to the same decisions, whoever of them asked for decisions in between.
/// It ran to an end in this block.
struct Ended {
  std::size_t job;
};
/// Somebody else runs it, or ran it.
struct Taken {
  std::size_t job;
};
/// This block tried to claim it, and somebody else has it.
struct Lost {
  std::size_t job;
};
using Event = std::variant<Ended, Taken, Lost>;

// Decisions: what the block does next.
/// Claim it; run it when the claim holds and report Ended, else report Lost.
struct Run {
  std::size_t job;
};
/// The block ends here; each part is a block of its own, with the scheduler that `part` gives.
struct Split {
  std::vector<Block> parts;
};
/// Nothing is left that fits.
struct Finish {
  bool no_time = false;  ///< something open would fit the ranks of this block or of one that it came from, but not the time that is left
};
using Decision = std::variant<Run, Split, Finish>;

/// One block. Copies and parts share what is known of the jobs: one of them hears of an event for all.
class Scheduler {
 public:
  /// `salt`: the same on all ranks of a launch, another for each launch; only makes launches that compete for jobs part sooner.
  Scheduler(std::span<const Job> jobs, Block block, std::uint64_t salt = 0);

  const Block& block() const { return block_; }
  void on(const Event& event);

  /// What to do next; the same until an event or the time changes it. Every rank of a block must give the same `time`. Amortised O(1) without a
  /// deadline, a binary search with one; a Split takes a time proportional to the block's ranks, the first one of a world to the number of jobs.
  ///
  /// The first Split of a world gives each gang size as many blocks as finish its jobs in the time that the whole takes, so that long jobs of small
  /// gangs start early. A Split deals: each part tries first a job that no other part tries first, and goes on to smaller ones at once where every
  /// job of its size was dealt to another. After that a block takes the first open job in order: own shard first, largest first, by id; but a block
  /// that lost claims lately takes one of the first 2, 4, 8 ..., so that blocks that ask at the same moment part.
  Decision next(const TimeLeft& time = {});

  /// The scheduler of one part of the Split that next() gave last.
  Scheduler part(const Block& block) const;

 private:
  struct Jobs;
  struct Deal;

  std::shared_ptr<const Deal> deal(const TimeLeft& time) const;
  Decision split(std::int64_t size);

  std::shared_ptr<Jobs> jobs_;
  std::shared_ptr<const Deal> deal_;     // of the Split that made this block, until it tried a job
  std::shared_ptr<const Deal> dealing_;  // of the Split that next() gave last
  Block block_;
  std::uint64_t salt_;
  int losses_ = 0;                                  // of claims, less the claims won since
  bool no_time_ = false, dealing_no_time_ = false;  // a block that this one, or its parts, come from had an open job for which the time was short
  bool world_ = true;                               // no part of another
};

/// A job whose gang no block of this world can hold, with the reason for people.
struct Skipped {
  std::size_t job;
  std::string reason;
};
std::vector<Skipped> too_large(std::span<const Job> jobs, std::int64_t world_ranks);

}  // namespace moesweep::plan
