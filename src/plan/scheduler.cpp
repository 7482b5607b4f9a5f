// See include/moesweep/plan/scheduler.hpp.
#include "moesweep/plan/scheduler.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <functional>
#include <queue>
#include <tuple>

namespace moesweep::plan {

struct Scheduler::Queues {
  std::map<std::int64_t, std::vector<std::size_t>, std::greater<>> by_size;  // largest size first
};

Scheduler::Scheduler(std::span<const Job> jobs, Block block) : block_(block), open_(jobs.size(), 1) {
  auto queues = std::make_shared<Queues>();
  for (std::size_t i = 0; i < jobs.size(); ++i) queues->by_size[jobs[i].ranks].push_back(i);
  for (auto& [size, queue] : queues->by_size)
    std::ranges::sort(queue, {}, [&](std::size_t i) { return std::tuple(!jobs[i].preferred, -jobs[i].seconds, std::string_view(jobs[i].id)); });
  queues_ = std::move(queues);
}

void Scheduler::on(const Event& event) {
  std::visit([this](const auto& known) { open_.at(known.job) = 0; }, event);
}

Decision Scheduler::next() const {
  for (const auto& [size, queue] : queues_->by_size) {
    if (size > block_.ranks) continue;
    std::size_t& at = next_in_queue_[size];
    while (at < queue.size() && open_[queue[at]] == 0) ++at;
    if (at == queue.size()) continue;
    if (size == block_.ranks) return Run{queue[at]};
    Split split;
    std::int64_t first = block_.first;
    const std::int64_t end = block_.first + block_.ranks;
    for (; first + size <= end; first += size) split.parts.push_back({first, size});
    if (first < end) split.parts.push_back({first, end - first});
    return split;
  }
  return Finish{};
}

Scheduler Scheduler::part(const Block& block) const {
  Scheduler scheduler = *this;
  scheduler.block_ = block;
  return scheduler;
}

std::vector<Skipped> too_large(std::span<const Job> jobs, std::int64_t world_ranks) {
  std::vector<Skipped> skipped;
  for (std::size_t i = 0; i < jobs.size(); ++i)
    if (jobs[i].ranks > world_ranks)
      skipped.push_back({i, fmt::format("needs {} ranks (parallel.expert * parallel.data), this world has {}", jobs[i].ranks, world_ranks)});
  return skipped;
}

Simulation simulate(std::span<const Job> jobs, std::int64_t ranks) {
  Simulation result;
  std::vector<char> claimed(jobs.size(), 0);
  double busy = 0.0, longest = 0.0;
  // Blocks by the time at which they ask for their next decision; the sequence number keeps ties in order.
  struct Ready {
    double time;
    std::size_t sequence;
    Scheduler scheduler;
    bool operator>(const Ready& other) const { return std::tie(time, sequence) > std::tie(other.time, other.sequence); }
  };
  std::priority_queue<Ready, std::vector<Ready>, std::greater<>> ready;
  std::size_t sequence = 0;
  ready.push({0.0, sequence++, Scheduler(jobs, {0, ranks})});
  while (!ready.empty()) {
    Ready now = ready.top();
    ready.pop();
    for (;;) {
      const Decision decision = now.scheduler.next();
      if (const auto* run = std::get_if<Run>(&decision)) {
        if (claimed[run->job] != 0) {
          now.scheduler.on(Taken{run->job});
          continue;
        }
        claimed[run->job] = 1;
        now.scheduler.on(Ended{run->job});
        const Job& job = jobs[run->job];
        busy += job.seconds * static_cast<double>(job.ranks);
        longest = std::max(longest, job.seconds);
        now.time += job.seconds;
        result.makespan_seconds = std::max(result.makespan_seconds, now.time);
        ++result.jobs_run;
        now.sequence = sequence++;
        ready.push(std::move(now));
      } else if (const auto* split = std::get_if<Split>(&decision)) {
        for (const Block& block : split->parts) ready.push({now.time, sequence++, now.scheduler.part(block)});
      }
      break;
    }
  }
  result.lower_bound_seconds = std::max(busy / static_cast<double>(ranks), longest);
  if (result.makespan_seconds > 0) result.idle_share = 1.0 - busy / (result.makespan_seconds * static_cast<double>(ranks));
  return result;
}

}  // namespace moesweep::plan
