// See include/moesweep/plan/simulate.hpp.
#include "moesweep/plan/simulate.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <optional>
#include <queue>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "moesweep/core/error.hpp"
#include "moesweep/core/random.hpp"
#include "moesweep/plan/shard.hpp"

namespace moesweep::plan {

namespace {

constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kSecondsOfHour = 3600.0;
constexpr std::size_t kMostFutile = 1000;  // launches in a row, beside two of each world

class Clock {
 public:
  Clock(std::span<const Job> jobs, const SimulationOptions& options)
      : jobs_(jobs), options_(options), trials_(jobs.size()), worlds_(static_cast<std::size_t>(options.worlds)) {
    const auto shards = shards_of(jobs, options.worlds);
    for (std::size_t w = 0; w < worlds_.size(); ++w)
      worlds_[w].ranks = options.ranks / options.worlds + (static_cast<std::int64_t>(w) < options.ranks % options.worlds ? 1 : 0);
    const std::int64_t largest = worlds_.front().ranks;
    double work = 0.0, longest = 0.0;
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      Trial& trial = trials_[i];
      trial.shard = static_cast<std::size_t>(shards[i]);
      trial.left = jobs[i].seconds * noise_of(i);
      trial.whole = trial.left;
      if (jobs[i].ranks > largest) {
        trial.holder = kNobodyFits;
        ++result_.jobs_skipped;
        continue;
      }
      work += trial.whole * static_cast<double>(jobs[i].ranks);
      longest = std::max(longest, trial.whole);
    }
    result_.lower_bound_seconds = std::max(work / static_cast<double>(options.ranks), longest);
  }

  Simulation run() {
    for (std::size_t w = 0; w < worlds_.size(); ++w) push(0.0, What::start, w);
    while (!events_.empty()) {
      const Event event = events_.top();
      events_.pop();
      World& world = worlds_[event.world];
      if (event.generation != world.generation) continue;
      now_ = event.time;
      switch (event.what) {
        case What::start: start(event.world); break;
        case What::ready: ready(event.world, event.block); break;
        case What::crash: crash(event.world, event.block); break;
        case What::failure:
          ++result_.failures;
          stop(event.world, false, false);
          break;
        case What::deadline: stop(event.world, true, false); break;
      }
    }
    const double whole = result_.makespan_seconds * static_cast<double>(options_.ranks);
    if (whole > 0.0) {
      result_.idle_share = std::max(0.0, 1.0 - busy_ / whole);
      result_.lost_share = lost_ / whole;
      result_.average_claims_per_second = static_cast<double>(result_.claims - result_.collisions) / result_.makespan_seconds;
    }
    for (const auto& [second, claims] : claims_by_second_)
      result_.peak_claims_per_second = std::max(result_.peak_claims_per_second, static_cast<double>(claims));
    return result_;
  }

 private:
  static constexpr std::size_t kNobodyFits = kNone - 1;
  enum class What { start, ready, crash, failure, deadline };
  enum class Phase { together, alone };

  struct Event {
    double time;
    std::size_t sequence;
    What what;
    std::size_t world, generation, block;
    bool operator>(const Event& other) const { return std::tie(time, sequence) > std::tie(other.time, other.sequence); }
  };
  struct Trial {
    std::size_t shard = 0;
    double whole = 0.0, left = 0.0;  // real seconds
    std::size_t holder = kNone;      // the world that claimed it
    std::uint32_t attempts = 0;
    int crashes = 0;  // alone
    bool to_go_on = false;
  };
  struct BlockState {
    Scheduler scheduler;
    std::size_t job = kNone;  // running
    double since = 0.0;
  };
  struct World {
    std::int64_t ranks = 1;
    std::size_t generation = 0;
    double deadline = -kInfinity, started = 0.0;
    Phase phase = Phase::together;
    std::vector<std::size_t> jobs;   // of the scheduler
    std::vector<BlockState> blocks;  // all of this launch
    std::size_t live = 0, running = 0, board_read = 0;
    bool no_time = false;
    std::vector<std::size_t> to_go_on;  // claimed by this world, with a checkpoint
    std::deque<std::size_t> suspects;
    double real = 0.0, estimated = 0.0;  // of ended jobs
  };

  void push(double time, What what, std::size_t world, std::size_t block = 0) {
    if (time < kInfinity) events_.push({time, sequence_++, what, world, worlds_[world].generation, block});
  }

  double uniform(std::uint32_t kind, std::uint32_t a, std::uint32_t b) const {
    const auto words = random_words(options_.seed, Purpose::simulation, {kind, a, b, 0});
    return to_uniform(words[0], words[1]);
  }
  double noise_of(std::size_t job) const {
    if (options_.noise == 0.0) return 1.0;
    const double normal = to_normals(random_words(options_.seed, Purpose::simulation, {0, static_cast<std::uint32_t>(job), 0, 0}))[0];
    return std::exp(options_.noise * normal - options_.noise * options_.noise / 2);
  }
  double estimate_left(std::size_t job) const {
    const Trial& trial = trials_[job];
    return trial.whole > 0.0 ? jobs_[job].seconds * trial.left / trial.whole : 0.0;
  }

  /// A launch of a world: everything unclaimed and what it goes on with; when there is nothing, its suspects.
  void start(std::size_t w) {
    World& world = worlds_[w];
    world.blocks.clear();
    world.live = world.running = 0;
    world.no_time = false;
    world.jobs.clear();
    for (std::size_t i = 0; i < trials_.size(); ++i)
      if (trials_[i].holder == kNone && jobs_[i].ranks <= world.ranks) world.jobs.push_back(i);
    world.jobs.insert(world.jobs.end(), world.to_go_on.begin(), world.to_go_on.end());
    std::ranges::sort(world.jobs);
    if (world.jobs.empty() && world.suspects.empty()) return;
    if (world.deadline <= now_) {
      world.deadline = now_ + options_.walltime_seconds;
      ++result_.allocations;
      if (++futile_ > kMostFutile + 2 * worlds_.size())
        throw Error(ErrorKind::usage, "the simulated sweep gets nowhere: its worlds end before their trials reach a checkpoint", "",
                    "lower --failures-per-rank-hour, or give more --worlds or a longer --walltime");
    }
    world.started = now_;
    push(world.deadline, What::deadline, w);
    if (options_.failures_per_rank_hour > 0.0) {
      const double rate = options_.failures_per_rank_hour * static_cast<double>(world.ranks) / kSecondsOfHour;
      push(now_ - std::log(uniform(1, static_cast<std::uint32_t>(w), static_cast<std::uint32_t>(world.generation))) / rate, What::failure, w);
    }
    if (world.jobs.empty()) {
      next_suspect(w);
      return;
    }
    world.phase = Phase::together;
    world.board_read = board_.size();
    std::vector<Job> jobs;
    for (const std::size_t job : world.jobs)
      jobs.push_back({jobs_[job].id, jobs_[job].ranks, estimate_left(job), trials_[job].to_go_on || trials_[job].shard == w});
    world.blocks.push_back({Scheduler(jobs, {0, world.ranks}, w)});
    world.live = 1;
    push(now_, What::ready, w, 0);
  }

  /// The next suspect on ranks of its own, the rest of the world idle; without one, the world ends.
  void next_suspect(std::size_t w) {
    World& world = worlds_[w];
    if (world.suspects.empty()) {
      if (world.no_time) again(w, true);
      return;
    }
    const std::size_t job = world.suspects.front();
    world.suspects.pop_front();
    world.phase = Phase::alone;
    world.jobs = {job};
    world.blocks.clear();
    const std::vector<Job> alone{{jobs_[job].id, jobs_[job].ranks, estimate_left(job), true}};
    world.blocks.push_back({Scheduler(alone, {0, jobs_[job].ranks})});
    world.live = 1;
    push(now_, What::ready, w, 0);
  }

  /// A block asks for its next decision; what it ran has ended.
  void ready(std::size_t w, std::size_t b) {
    World& world = worlds_[w];
    if (const std::size_t job = world.blocks[b].job; job != kNone) {
      BlockState& block = world.blocks[b];
      Trial& trial = trials_[job];
      account(block, now_);
      world.real += trial.left;
      world.estimated += estimate_left(job);
      trial.left = 0.0;
      result_.makespan_seconds = now_;
      ++result_.jobs_run;
      futile_ = 0;
      --world.running;
      block.scheduler.on(Ended{place_of(world, job)});
      block.job = kNone;
    }
    read_board(world, world.blocks[b].scheduler);
    const TimeLeft time{world.deadline - now_, world.deadline - world.started, world.estimated > 0.0 ? world.real / world.estimated : 1.0};
    const Decision decision = world.blocks[b].scheduler.next(time);
    if (const auto* run = std::get_if<Run>(&decision)) {
      claim(w, b, world.jobs[run->job]);
    } else if (const auto* split = std::get_if<Split>(&decision)) {
      world.live += split->parts.size() - 1;
      const Scheduler whole = world.blocks[b].scheduler;
      for (std::size_t i = 0; i < split->parts.size(); ++i) {
        const std::size_t at = i == 0 ? b : world.blocks.size();
        if (i == 0) world.blocks[b] = {whole.part(split->parts[i])};
        else world.blocks.push_back({whole.part(split->parts[i])});
        push(now_, What::ready, w, at);
      }
    } else {
      const bool no_time = std::get<Finish>(decision).no_time;
      world.no_time = world.no_time || no_time;
      if (--world.live > 0) return;
      if (no_time && world.phase == Phase::alone) {
        world.suspects.push_front(world.jobs.front());
        again(w, true);
      } else {
        next_suspect(w);
      }
    }
  }

  /// Claims are settled by who began first; all see one `claim_seconds` later.
  void claim(std::size_t w, std::size_t b, std::size_t job) {
    World& world = worlds_[w];
    BlockState& block = world.blocks[b];
    Trial& trial = trials_[job];
    const double claimed = now_ + options_.claim_seconds;
    ++result_.claims;
    result_.dispatch_seconds += options_.claim_seconds * static_cast<double>(jobs_[job].ranks);
    const bool mine = trial.holder == w && (trial.to_go_on || world.phase == Phase::alone);
    if (trial.holder != kNone && !mine) {
      ++result_.collisions;
      block.scheduler.on(Lost{place_of(world, job)});
      push(claimed, What::ready, w, b);
      return;
    }
    if (trial.to_go_on) std::erase(world.to_go_on, job);
    trial.to_go_on = false;
    trial.holder = w;
    if (world.phase == Phase::together) board_.push_back({claimed, job});
    ++claims_by_second_[static_cast<std::int64_t>(claimed)];
    block.job = job;
    block.since = claimed;
    ++world.running;
    const auto attempt = trial.attempts++;
    const bool crashes = uniform(2, static_cast<std::uint32_t>(job), attempt) < options_.crash_probability;
    const double share = crashes ? uniform(3, static_cast<std::uint32_t>(job), attempt) : 1.0;
    push(claimed + share * trial.left, crashes ? What::crash : What::ready, w, b);
  }

  void read_board(World& world, Scheduler& scheduler) {
    if (world.phase == Phase::alone) return;
    for (; world.board_read < board_.size() && board_[world.board_read].seen <= now_; ++world.board_read) {
      const std::size_t job = board_[world.board_read].job;
      if (const std::size_t place = place_of(world, job); place != kNone) scheduler.on(Taken{place});
    }
  }

  /// Among the jobs of the world's launch.
  static std::size_t place_of(const World& world, std::size_t job) {
    const auto found = std::ranges::lower_bound(world.jobs, job);
    return found != world.jobs.end() && *found == job ? static_cast<std::size_t>(found - world.jobs.begin()) : kNone;
  }

  void crash(std::size_t w, std::size_t b) {
    World& world = worlds_[w];
    ++result_.crashes;
    const std::size_t job = world.blocks[b].job;
    Trial& trial = trials_[job];
    const bool named = uniform(4, static_cast<std::uint32_t>(job), trial.attempts) < options_.named_share;
    if ((named || world.running == 1) && ++trial.crashes >= options_.crash_budget) {
      account(world.blocks[b], now_);
      result_.makespan_seconds = now_;
      ++result_.jobs_crashed;
      world.blocks[b].job = kNone;
    }
    stop(w, false, !named, false);
  }

  /// The world ends: what runs goes on from its checkpoint, at a deadline from where it is; as suspects after a crash that named none.
  void stop(std::size_t w, bool checkpointed, bool suspect, bool new_allocation = true) {
    World& world = worlds_[w];
    for (BlockState& block : world.blocks) {
      if (block.job == kNone) continue;
      Trial& trial = trials_[block.job];
      const double worked = account(block, now_);
      const double kept = checkpointed || options_.checkpoint_seconds <= 0.0
                              ? worked
                              : std::floor(worked / options_.checkpoint_seconds) * options_.checkpoint_seconds;
      trial.left -= std::min(kept, trial.left);
      if (kept > 0.0) futile_ = 0;
      lost_ += (worked - kept) * static_cast<double>(jobs_[block.job].ranks);
      if (suspect || world.phase == Phase::alone) {
        world.suspects.push_back(block.job);
      } else {
        trial.to_go_on = true;
        world.to_go_on.push_back(block.job);
      }
      block.job = kNone;
    }
    again(w, new_allocation);
  }

  void again(std::size_t w, bool new_allocation) {
    World& world = worlds_[w];
    ++world.generation;
    if (new_allocation) world.deadline = -kInfinity;
    push(now_ + options_.restart_seconds, What::start, w);
  }

  /// Counts a block's ranks as busy with its job until `end`; gives the seconds worked.
  double account(const BlockState& block, double end) {
    const double worked = std::max(0.0, end - block.since);
    busy_ += worked * static_cast<double>(jobs_[block.job].ranks);
    return worked;
  }

  struct Claim {
    double seen;
    std::size_t job;
  };

  std::span<const Job> jobs_;
  const SimulationOptions& options_;
  std::vector<Trial> trials_;
  std::vector<World> worlds_;
  std::vector<Claim> board_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::unordered_map<std::int64_t, std::size_t> claims_by_second_;
  std::size_t sequence_ = 0, futile_ = 0;
  double now_ = 0.0, busy_ = 0.0, lost_ = 0.0;
  Simulation result_;
};

void check(bool holds, const char* what) {
  if (!holds) throw Error(ErrorKind::usage, fmt::format("a simulation needs {}", what), "", "see `moesweep plan --help`");
}

}  // namespace

double Simulation::claims_per_trial() const {
  const auto trials = static_cast<double>(jobs_run + jobs_crashed);
  return trials > 0.0 ? static_cast<double>(claims) / trials : 0.0;
}

double Simulation::dispatch_seconds_per_trial() const {
  const auto trials = static_cast<double>(jobs_run + jobs_crashed);
  return trials > 0.0 ? dispatch_seconds / trials : 0.0;
}

Json Simulation::json() const {
  return {{"makespan_seconds", makespan_seconds},
          {"lower_bound_seconds", lower_bound_seconds},
          {"ratio", lower_bound_seconds > 0.0 ? makespan_seconds / lower_bound_seconds : 1.0},
          {"idle_share", idle_share},
          {"lost_share", lost_share},
          {"jobs_run", jobs_run},
          {"jobs_crashed", jobs_crashed},
          {"jobs_skipped", jobs_skipped},
          {"claims", claims},
          {"collisions", collisions},
          {"claims_per_trial", claims_per_trial()},
          {"dispatch_rank_seconds_per_trial", dispatch_seconds_per_trial()},
          {"peak_claims_per_second", peak_claims_per_second},
          {"average_claims_per_second", average_claims_per_second},
          {"allocations", allocations},
          {"failures", failures},
          {"crashes", crashes}};
}

Simulation simulate(std::span<const Job> jobs, const SimulationOptions& options) {
  check(options.ranks >= 1, "at least one rank");
  check(options.worlds >= 1 && options.worlds <= options.ranks, "between one world and one for each rank");
  check(options.noise >= 0.0 && options.failures_per_rank_hour >= 0.0, "noise and failures of at least 0");
  check(options.crash_probability >= 0.0 && options.crash_probability <= 1.0 && options.named_share >= 0.0 && options.named_share <= 1.0,
        "a probability and a share between 0 and 1");
  check(options.walltime_seconds > 0.0, "a walltime above 0");
  check(options.restart_seconds >= 0.0 && options.checkpoint_seconds >= 0.0 && options.claim_seconds >= 0.0, "times of at least 0");
  return Clock(jobs, options).run();
}

Simulation simulate(std::span<const Job> jobs, std::int64_t ranks) {
  SimulationOptions options;
  options.ranks = ranks;
  return simulate(jobs, options);
}

}  // namespace moesweep::plan
