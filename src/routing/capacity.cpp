// What an expert takes at most, and which (token, slot) pairs it drops. See include/moesweep/routing/parts.hpp.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "moesweep/core/random.hpp"
#include "moesweep/routing/parts.hpp"

namespace moesweep::routing {

std::int64_t capacity_of(std::int64_t tokens, std::int64_t k, std::int64_t experts, double factor) {
  const double share = static_cast<double>(tokens) * static_cast<double>(k) * factor / static_cast<double>(experts);
  // The comparison comes before the cast: a large factor must not overflow it.
  const double most = std::ceil(share - 1e-9);
  return most >= static_cast<double>(tokens) ? tokens : std::max<std::int64_t>(0, static_cast<std::int64_t>(most));
}

std::vector<bool> dropped_over_capacity(const std::vector<CapacityRow>& rows, std::int64_t experts, std::int64_t capacity, CapacityPolicy policy) {
  std::vector<bool> dropped(rows.size(), false);
  std::vector<std::vector<std::size_t>> claims(static_cast<std::size_t>(experts));
  for (std::size_t i = 0; i < rows.size(); ++i) claims[static_cast<std::size_t>(rows[i].expert)].push_back(i);
  // The lowest rank is kept first; NaN, which has no order, comes last.
  const auto rank = [policy](const CapacityRow& row) {
    switch (policy) {
      case CapacityPolicy::position: return static_cast<double>(row.token);
      case CapacityPolicy::gshard: return static_cast<double>(row.slot);
      case CapacityPolicy::probability:
      case CapacityPolicy::random: break;
    }
    return std::isnan(row.priority) ? std::numeric_limits<double>::infinity() : -row.priority;
  };
  const auto before = [&](std::size_t a, std::size_t b) {
    const double first = rank(rows[a]), second = rank(rows[b]);
    if (first != second) return first < second;
    if (rows[a].token != rows[b].token) return rows[a].token < rows[b].token;
    return rows[a].slot < rows[b].slot;
  };
  for (auto& mine : claims) {
    if (static_cast<std::int64_t>(mine.size()) <= capacity) continue;
    const auto last = mine.begin() + capacity;
    std::nth_element(mine.begin(), last, mine.end(), before);
    for (auto claim = last; claim != mine.end(); ++claim) dropped[*claim] = true;
  }
  return dropped;
}

at::Tensor capacity_priorities(const TokenLayout& tokens, std::int64_t layer, const Slots& slots) {
  const at::Tensor of_token = slots.token.to(at::kCPU).contiguous(), offsets = slots.offsets.to(at::kCPU).contiguous();
  const auto* token = of_token.const_data_ptr<std::int64_t>();
  const auto* begins = offsets.const_data_ptr<std::int64_t>();
  const std::vector<std::int64_t> index = tokens.index_of_token(), position = tokens.position_of_token();
  at::Tensor priority = at::empty({of_token.numel()}, at::kDouble);
  auto* out = priority.mutable_data_ptr<double>();
  at::parallel_for(0, of_token.numel(), 1024, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const auto t = static_cast<std::size_t>(token[i]);
      const Place place{static_cast<std::uint32_t>(layer), static_cast<std::uint32_t>(tokens.step), static_cast<std::uint32_t>(index[t]),
                        static_cast<std::uint32_t>(position[t])};
      const auto words = random_words(static_cast<std::uint64_t>(tokens.seed), Purpose::capacity, place, static_cast<std::uint32_t>(i - begins[t]));
      out[i] = to_uniform(words[0], words[1]);
    }
  });
  return priority;
}

}  // namespace moesweep::routing
