// Shards: fixed parts of a plan, one for each element of a job array.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "moesweep/plan/scheduler.hpp"

namespace moesweep::plan {

/// The most ranks of a launch and the most shards that options may name: more only take memory and time.
inline constexpr std::int64_t kMostRanks = 1'000'000, kMostShards = 100'000;

/// Element `index` of `count`, `index` from 0.
struct Shard {
  std::int64_t index = 0, count = 1;
};

/// Reads `i/n` with n up to `kMostShards`; a `usage` error says what is allowed.
Shard parse_shard(const std::string& text);

/// The shard of each job, deterministic whatever the order of the jobs: largest cost (seconds x ranks) first, ties by id, dealt in turn.
std::vector<std::int64_t> shards_of(std::span<const Job> jobs, std::int64_t count);

}  // namespace moesweep::plan
