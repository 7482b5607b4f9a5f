// See include/moesweep/plan/shard.hpp.
#include "moesweep/plan/shard.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <numeric>
#include <tuple>

#include "moesweep/core/error.hpp"

namespace moesweep::plan {

Shard parse_shard(const std::string& text) {
  Shard shard{-1, 0};
  const auto slash = text.find('/');
  const char* const end = text.data() + text.size();
  bool read = slash != std::string::npos;
  if (read) {
    const auto index = std::from_chars(text.data(), text.data() + slash, shard.index);
    const auto count = std::from_chars(text.data() + slash + 1, end, shard.count);
    read = index.ec == std::errc() && index.ptr == text.data() + slash && count.ec == std::errc() && count.ptr == end;
  }
  if (!read || shard.count < 1 || shard.count > kMostShards || shard.index < 0 || shard.index >= shard.count)
    throw Error(ErrorKind::usage, fmt::format("'{}' is no shard", text), "",
                fmt::format("give i/n with n from 1 to {} and i from 0 to n-1, for example --shard 0/4", kMostShards));
  return shard;
}

std::vector<std::int64_t> shards_of(std::span<const Job> jobs, std::int64_t count) {
  std::vector<std::size_t> order(jobs.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, {},
                    [&](std::size_t i) { return std::tuple(-jobs[i].seconds * static_cast<double>(jobs[i].ranks), std::string_view(jobs[i].id)); });
  std::vector<std::int64_t> shards(jobs.size());
  for (std::size_t position = 0; position < order.size(); ++position) shards[order[position]] = static_cast<std::int64_t>(position) % count;
  return shards;
}

}  // namespace moesweep::plan
