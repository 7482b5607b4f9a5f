// See include/moesweep/plan/scheduler.hpp.
#include "moesweep/plan/scheduler.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <tuple>
#include <utility>

#include "moesweep/core/random.hpp"

namespace moesweep::plan {

namespace {

constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();
constexpr int kMostLosses = 10;  // 2^10 jobs are enough for blocks to part in

/// Positions of a queue, from first to before end.
struct Range {
  std::size_t first, end;
};

/// Jobs of one gang size in order. Seconds fall within the own shard's part and within the rest.
struct Queue {
  std::int64_t ranks = 1;
  std::vector<std::uint32_t> jobs;
  std::vector<double> seconds;      // by position
  std::size_t own = 0;              // positions of the own shard
  std::vector<std::uint32_t> skip;  // by position: where to look on when the job here is closed
};

}  // namespace

bool TimeLeft::allows(double estimated_seconds) const {
  const double real = pace * estimated_seconds;
  return real <= seconds || (real > whole && seconds >= whole / 2);
}

struct Scheduler::Jobs {
  std::vector<Queue> queues;  // largest gang first
  std::vector<char> open;     // by job
  std::vector<double> seconds;
  std::vector<std::int64_t> ranks;

  /// The first open position from `at`, or the end.
  std::size_t find(Queue& queue, std::size_t at) const {
    std::size_t found = at;
    while (found < queue.jobs.size() && open[queue.jobs[found]] == 0) found = queue.skip[found];
    while (at < found) at = std::exchange(queue.skip[at], static_cast<std::uint32_t>(found));
    return found;
  }

  /// Where jobs are that may start, in order; nothing else is in these ranges.
  static std::vector<Range> startable(const Queue& queue, const TimeLeft& time) {
    std::vector<Range> ranges;
    for (const Range part : {Range{0, queue.own}, Range{queue.own, queue.jobs.size()}}) {
      const auto end_of = [&](double limit) {
        const auto begin = queue.seconds.begin();
        const auto first_within = std::partition_point(begin + static_cast<std::ptrdiff_t>(part.first), begin + static_cast<std::ptrdiff_t>(part.end),
                                                       [&](double each) { return time.pace * each > limit; });
        return static_cast<std::size_t>(first_within - begin);
      };
      if (std::isinf(time.seconds)) {
        ranges.push_back(part);
        continue;
      }
      const std::size_t too_long = time.seconds >= time.whole / 2 ? end_of(time.whole) : part.first;
      ranges.push_back({part.first, too_long});
      ranges.push_back({std::max(too_long, end_of(time.seconds)), part.end});
    }
    return ranges;
  }

  /// Calls `take(position)` with the open jobs that may start, in order, until it returns false.
  void each_startable(Queue& queue, const TimeLeft& time, const std::function<bool(std::size_t)>& take) const {
    for (const Range range : startable(queue, time))
      for (std::size_t at = find(queue, range.first); at < range.end; at = find(queue, at + 1))
        if (!take(at)) return;
  }

  /// The first open job from position `from` that may start.
  std::size_t first_startable(Queue& queue, const TimeLeft& time, std::size_t from = 0) const {
    if (std::isinf(time.seconds)) {
      const std::size_t at = find(queue, from);
      return at < queue.jobs.size() ? queue.jobs[at] : kNone;
    }
    for (const Range range : startable(queue, time))
      if (const std::size_t at = find(queue, std::max(from, range.first)); at < range.end) return queue.jobs[at];
    return kNone;
  }

  /// One of the first 2^losses open jobs that may start; which, differs by block and by number of losses.
  std::size_t one_of(Queue& queue, const TimeLeft& time, int losses, std::uint64_t salt, std::int64_t first_rank) const {
    std::vector<std::size_t> found;
    each_startable(queue, time, [&](std::size_t at) {
      found.push_back(queue.jobs[at]);
      return found.size() < std::size_t{1} << losses;
    });
    const Place place{static_cast<std::uint32_t>(losses), static_cast<std::uint32_t>(first_rank), static_cast<std::uint32_t>(found.front()), 0};
    return found[random_words(salt, Purpose::claim, place)[0] % found.size()];
  }

  /// Whether something open may not start now.
  bool waits(Queue& queue, const TimeLeft& time) const {
    std::size_t looked_at = 0;
    for (const Range range : startable(queue, time)) {
      if (find(queue, looked_at) < range.first) return true;
      looked_at = std::max(looked_at, range.end);
    }
    return find(queue, looked_at) < queue.jobs.size();
  }
};

/// Which job each block tries first, after one Split and those that follow from it at once.
struct Scheduler::Deal {
  std::int64_t first = 0;            // rank
  std::vector<std::size_t> jobs;     // by rank from `first`: of the block that begins there, else kNone
  std::vector<std::int64_t> sizes;   // into which blocks without a job are cut, largest first
  std::vector<std::size_t> undealt;  // by queue: the position after the last that was dealt

  std::size_t of(const Block& block) const { return jobs[static_cast<std::size_t>(block.first - first)]; }
};

Scheduler::Scheduler(std::span<const Job> jobs, Block block, std::uint64_t salt) : jobs_(std::make_shared<Jobs>()), block_(block), salt_(salt) {
  jobs_->open.assign(jobs.size(), 1);
  std::map<std::int64_t, Queue, std::greater<>> queues;
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    Queue& queue = queues[jobs[i].ranks];
    queue.jobs.push_back(static_cast<std::uint32_t>(i));
    queue.own += jobs[i].preferred ? 1 : 0;
    jobs_->seconds.push_back(jobs[i].seconds);
    jobs_->ranks.push_back(jobs[i].ranks);
  }
  for (auto& [size, queue] : queues) {
    queue.ranks = size;
    std::ranges::sort(queue.jobs, {}, [&](std::size_t i) { return std::tuple(!jobs[i].preferred, -jobs[i].seconds, std::string_view(jobs[i].id)); });
    for (std::size_t at = 0; at < queue.jobs.size(); ++at) {
      queue.seconds.push_back(jobs[queue.jobs[at]].seconds);
      queue.skip.push_back(static_cast<std::uint32_t>(at + 1));
    }
    jobs_->queues.push_back(std::move(queue));
  }
}

void Scheduler::on(const Event& event) {
  std::visit([this](const auto& known) { jobs_->open.at(known.job) = 0; }, event);
  if (std::holds_alternative<Taken>(event)) return;
  deal_.reset();
  losses_ = std::holds_alternative<Lost>(event) ? std::min(losses_ + 1, kMostLosses) : std::max(losses_ - 1, 0);
}

namespace {

/// Open jobs of one gang size that may start, as the shape of a world needs them.
struct Class {
  std::int64_t ranks = 1;
  std::vector<double> seconds;  // of those that give the shape, largest first
  double work = 0.0;            // their rank-seconds
  std::int64_t others = 0;      // that take what ranks are left
};

/// Blocks for each class, so that all end at about the same time. The smallest time is sought in which the blocks suffice: a block for each job
/// longer than half of it, and as many as the class's work needs beside what larger blocks have left when their own jobs are done.
std::vector<std::int64_t> blocks_of(const std::vector<Class>& classes, std::int64_t ranks) {
  double work = 0.0, longest = 0.0;
  for (const Class& jobs : classes) {
    work += jobs.work;
    if (!jobs.seconds.empty()) longest = std::max(longest, jobs.seconds.front());
  }
  std::vector<std::int64_t> blocks(classes.size());
  const auto suffices = [&](double time) {
    double left_over = 0.0;
    std::int64_t used = 0;
    for (std::size_t i = 0; i < classes.size(); ++i) {
      const Class& jobs = classes[i];
      const auto long_ones = std::ranges::partition_point(jobs.seconds, [&](double seconds) { return seconds > time / 2; }) - jobs.seconds.begin();
      const double of_block = static_cast<double>(jobs.ranks) * time;
      blocks[i] = std::max<std::int64_t>(long_ones, static_cast<std::int64_t>(std::ceil((jobs.work - left_over) / of_block)));
      left_over += static_cast<double>(blocks[i]) * of_block - jobs.work;
      used += blocks[i] * jobs.ranks;
    }
    return used <= ranks;
  };
  // Blocks never grow: the largest jobs get one, even when they are none of those that give the shape.
  const std::int64_t kept = classes.front().seconds.empty() ? classes.front().ranks : 0;
  ranks -= kept;
  double low = std::max(work / static_cast<double>(std::max<std::int64_t>(ranks, 1)), longest), high = low;
  if (low > 0.0) {
    constexpr int kDoublings = 60, kHalvings = 30;
    for (int i = 0; i < kDoublings && !suffices(high); ++i) high *= 2;
    for (int i = 0; i < kHalvings && high > low; ++i) {
      const double middle = (low + high) / 2;
      (suffices(middle) ? high : low) = middle;
    }
    suffices(high);
  }
  std::int64_t free = ranks;
  for (std::size_t i = 0; i < classes.size(); ++i) free -= blocks[i] * classes[i].ranks;
  const auto give = [&](std::size_t i, std::int64_t most) {
    const std::int64_t more = std::clamp<std::int64_t>(most, 0, std::max<std::int64_t>(free, 0) / classes[i].ranks);
    blocks[i] += more;
    free -= more * classes[i].ranks;
  };
  for (std::size_t i = 0; i < classes.size(); ++i) give(i, static_cast<std::int64_t>(classes[i].seconds.size()) - blocks[i]);
  if (kept > 0) ++blocks.front();
  for (std::size_t i = 0; i < classes.size(); ++i) give(i, classes[i].others);
  return blocks;
}

}  // namespace

std::shared_ptr<const Scheduler::Deal> Scheduler::deal(const TimeLeft& time) const {
  std::vector<Queue*> queues;
  for (Queue& queue : jobs_->queues)
    if (queue.ranks <= block_.ranks && jobs_->first_startable(queue, time) != kNone) queues.push_back(&queue);
  std::vector<std::int64_t> most(queues.size(), std::numeric_limits<std::int64_t>::max());
  if (world_) {
    // The own shard's jobs give the shape, if there are any.
    const bool own = std::ranges::any_of(queues, [&](Queue* queue) {
      bool any = false;
      jobs_->each_startable(*queue, time, [&](std::size_t at) {
        any = at < queue->own;
        return false;
      });
      return any;
    });
    std::vector<Class> classes;
    for (Queue* queue : queues) {
      Class& jobs = classes.emplace_back(Class{queue->ranks, {}, 0.0, 0});
      jobs_->each_startable(*queue, time, [&](std::size_t at) {
        if (own && at >= queue->own) {
          ++jobs.others;
        } else {
          jobs.seconds.push_back(queue->seconds[at]);
          jobs.work += queue->seconds[at] * static_cast<double>(jobs.ranks);
        }
        return true;
      });
      std::ranges::sort(jobs.seconds, std::greater<>());
    }
    most = blocks_of(classes, block_.ranks);
  }
  auto result = std::make_shared<Deal>();
  result->first = block_.first;
  result->jobs.assign(static_cast<std::size_t>(block_.ranks), kNone);
  result->undealt.assign(jobs_->queues.size(), 0);
  std::vector<Block> free{block_};
  for (std::size_t i = 0; i < queues.size() && !free.empty(); ++i) {
    const std::int64_t size = queues[i]->ranks;
    result->sizes.push_back(size);
    std::vector<Block> cut, left;
    for (const Block& block : free) {
      std::int64_t first = block.first;
      const std::int64_t end = block.first + block.ranks;
      for (; first + size <= end; first += size) cut.push_back({first, size});
      if (first < end) cut.push_back({first, end - first});
    }
    std::size_t at = 0;
    std::int64_t given = 0;
    std::size_t& undealt = result->undealt[static_cast<std::size_t>(queues[i] - jobs_->queues.data())];
    const auto next_to_give = [&] {
      while (at < cut.size() && cut[at].ranks != size) left.push_back(cut[at++]);
      return at < cut.size();
    };
    jobs_->each_startable(*queues[i], time, [&](std::size_t position) {
      if (given == most[i] || !next_to_give()) return false;
      const std::size_t job = queues[i]->jobs[position];
      result->jobs[static_cast<std::size_t>(cut[at++].first - block_.first)] = job;
      undealt = position + 1;
      ++given;
      return true;
    });
    left.insert(left.end(), cut.begin() + static_cast<std::ptrdiff_t>(at), cut.end());
    free = std::move(left);
  }
  return result;
}

Decision Scheduler::split(std::int64_t size) {
  Split split;
  std::int64_t first = block_.first;
  const std::int64_t end = block_.first + block_.ranks;
  for (; first + size <= end; first += size) split.parts.push_back({first, size});
  if (first < end) split.parts.push_back({first, end - first});
  return split;
}

Decision Scheduler::next(const TimeLeft& time) {
  if (deal_) {
    if (const std::size_t job = deal_->of(block_); job != kNone) {
      if (jobs_->ranks[job] < block_.ranks) {
        dealing_ = deal_;
        dealing_no_time_ = no_time_;
        return split(*std::ranges::find_if(deal_->sizes, [&](std::int64_t size) { return size < block_.ranks; }));
      }
      if (jobs_->open[job] != 0 && time.allows(jobs_->seconds[job])) return Run{job};
    }
  }
  Finish finish{no_time_};
  for (Queue& queue : jobs_->queues) {
    if (queue.ranks > block_.ranks) continue;
    // What was dealt to others is theirs; whose own was taken meanwhile is as free as those to come.
    const std::size_t from = deal_ && deal_->of(block_) == kNone ? deal_->undealt[static_cast<std::size_t>(&queue - jobs_->queues.data())] : 0;
    const std::size_t job = jobs_->first_startable(queue, time, from);
    if (job == kNone) {
      finish.no_time = finish.no_time || jobs_->waits(queue, time);
      continue;
    }
    if (queue.ranks == block_.ranks) return Run{losses_ == 0 ? job : jobs_->one_of(queue, time, losses_, salt_, block_.first)};
    dealing_ = deal(time);
    dealing_no_time_ = finish.no_time;
    return split(queue.ranks);
  }
  return finish;
}

Scheduler Scheduler::part(const Block& block) const {
  Scheduler scheduler = *this;
  scheduler.block_ = block;
  scheduler.deal_ = dealing_;
  scheduler.dealing_.reset();
  scheduler.no_time_ = dealing_no_time_;
  scheduler.losses_ = 0;
  scheduler.world_ = false;
  return scheduler;
}

std::vector<Skipped> too_large(std::span<const Job> jobs, std::int64_t world_ranks) {
  std::vector<Skipped> skipped;
  for (std::size_t i = 0; i < jobs.size(); ++i)
    if (jobs[i].ranks > world_ranks)
      skipped.push_back({i, fmt::format("needs {} ranks (parallel.expert * parallel.data), this world has {}", jobs[i].ranks, world_ranks)});
  return skipped;
}

}  // namespace moesweep::plan
