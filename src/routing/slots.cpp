// Token layouts, (token, expert) pairs and their counts. See include/moesweep/routing/scores.hpp and parts.hpp.
#include <ATen/ATen.h>

#include "moesweep/core/error.hpp"
#include "moesweep/routing/parts.hpp"

namespace moesweep::routing {

namespace {

at::Tensor on_cpu(const at::Tensor& tensor) { return tensor.defined() ? tensor.to(at::kCPU).contiguous() : tensor; }

/// A tensor's flags, or none where it is undefined.
const bool* flags_of(const at::Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr<bool>() : nullptr; }

at::Tensor count(const Slots& slots, const at::Tensor& group, std::int64_t groups, std::int64_t experts, const at::Tensor& mask, bool kept_alone) {
  at::Tensor counts = at::zeros({groups, experts}, at::kLong);
  const at::Tensor tokens = on_cpu(slots.token), ids = on_cpu(slots.expert), rows = on_cpu(group), counting = on_cpu(mask);
  const at::Tensor without = kept_alone ? on_cpu(slots.dropped) : at::Tensor();
  const auto* token = tokens.const_data_ptr<std::int64_t>();
  const auto* id = ids.const_data_ptr<std::int64_t>();
  const auto* row = rows.const_data_ptr<std::int64_t>();
  const bool *counts_here = flags_of(counting), *dropped = flags_of(without);
  auto* out = counts.mutable_data_ptr<std::int64_t>();
  for (std::int64_t slot = 0; slot < ids.numel(); ++slot) {
    if (counts_here != nullptr && !counts_here[token[slot]]) continue;
    if (dropped != nullptr && dropped[slot]) continue;
    ++out[row[token[slot]] * experts + id[slot]];
  }
  return counts;
}

}  // namespace

at::Tensor TokenLayout::sequence_of_token() const {
  at::Tensor sequence = at::empty({tokens()}, at::kLong);
  auto* out = sequence.mutable_data_ptr<std::int64_t>();
  for (std::int64_t s = 0; s < sequences; ++s) std::fill(out + begin_of(s), out + begin_of(s + 1), s);
  return sequence;
}

at::Tensor TokenLayout::spread(const at::Tensor& of_sequence) const {
  return of_sequence.index_select(0, sequence_of_token().to(of_sequence.device()));
}

std::vector<std::int64_t> TokenLayout::index_of_token() const {
  if (!place_index.empty()) return place_index;
  std::vector<std::int64_t> places(static_cast<std::size_t>(tokens()));
  for (std::int64_t s = 0; s < sequences; ++s)
    std::fill(places.begin() + begin_of(s), places.begin() + begin_of(s + 1), index[static_cast<std::size_t>(s)]);
  return places;
}

std::vector<std::int64_t> TokenLayout::position_of_token() const {
  if (!place_position.empty()) return place_position;
  std::vector<std::int64_t> places(static_cast<std::size_t>(tokens()));
  for (std::int64_t s = 0; s < sequences; ++s)
    for (std::int64_t t = begin_of(s); t < begin_of(s + 1); ++t) places[static_cast<std::size_t>(t)] = t - begin_of(s);
  return places;
}

Slots slots_of(const at::Tensor& expert, const at::Tensor& mask) {
  MOESWEEP_ASSERT(expert.dim() == 2, "slots_of needs the experts of every token, [T, k]");
  const std::int64_t tokens = expert.size(0), k = expert.size(1);
  const at::Tensor counting = on_cpu(mask);
  const bool* counts = flags_of(counting);
  Slots slots;
  slots.offsets = at::empty({tokens + 1}, at::kLong);
  auto* offsets = slots.offsets.mutable_data_ptr<std::int64_t>();
  if (counts == nullptr || std::all_of(counts, counts + tokens, [](bool c) { return c; })) {
    slots.token = at::empty({tokens * k}, at::kLong);
    slots.expert = expert.reshape({tokens * k});
    slots.fixed_k = k;
    auto* token = slots.token.mutable_data_ptr<std::int64_t>();
    for (std::int64_t t = 0; t < tokens; ++t) {
      offsets[t] = t * k;
      for (std::int64_t slot = 0; slot < k; ++slot) *token++ = t;
    }
    offsets[tokens] = tokens * k;
    return slots;
  }
  offsets[0] = 0;
  for (std::int64_t t = 0; t < tokens; ++t) offsets[t + 1] = offsets[t] + (counts[t] ? k : 0);
  const at::Tensor chosen = on_cpu(expert);
  const auto* in = chosen.const_data_ptr<std::int64_t>();
  slots.token = at::empty({offsets[tokens]}, at::kLong);
  slots.expert = at::empty({offsets[tokens]}, at::kLong);
  auto* token = slots.token.mutable_data_ptr<std::int64_t>();
  auto* ids = slots.expert.mutable_data_ptr<std::int64_t>();
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t i = offsets[t]; i < offsets[t + 1]; ++i) {
      token[i] = t;
      ids[i] = in[t * k + i - offsets[t]];
    }
  slots.expert = slots.expert.to(expert.device());
  return slots;
}

Slots slots_of_flags(const at::Tensor& chosen, const at::Tensor& mask) {
  MOESWEEP_ASSERT(chosen.dim() == 2, "slots_of_flags needs [T, E] flags");
  const at::Tensor flags = on_cpu(chosen), counting = on_cpu(mask);
  const bool *taken = flags.const_data_ptr<bool>(), *counts = flags_of(counting);
  const std::int64_t tokens = chosen.size(0), experts = chosen.size(1);
  Slots slots;
  slots.offsets = at::empty({tokens + 1}, at::kLong);
  auto* offsets = slots.offsets.mutable_data_ptr<std::int64_t>();
  offsets[0] = 0;
  for (std::int64_t t = 0; t < tokens; ++t)
    offsets[t + 1] = offsets[t] + (counts == nullptr || counts[t] ? std::count(taken + t * experts, taken + (t + 1) * experts, true) : 0);
  slots.token = at::empty({offsets[tokens]}, at::kLong);
  slots.expert = at::empty({offsets[tokens]}, at::kLong);
  auto* token = slots.token.mutable_data_ptr<std::int64_t>();
  auto* ids = slots.expert.mutable_data_ptr<std::int64_t>();
  for (std::int64_t t = 0; t < tokens; ++t) {
    if (offsets[t + 1] == offsets[t]) continue;
    for (std::int64_t e = 0; e < experts; ++e)
      if (taken[t * experts + e]) {
        *token++ = t;
        *ids++ = e;
      }
  }
  slots.expert = slots.expert.to(chosen.device());
  return slots;
}

at::Tensor count_slots(const Slots& slots, const at::Tensor& group, std::int64_t groups, std::int64_t experts, const at::Tensor& mask) {
  return count(slots, group, groups, experts, mask, false);
}

at::Tensor count_kept_slots(const Slots& slots, const at::Tensor& group, std::int64_t groups, std::int64_t experts, const at::Tensor& mask) {
  return count(slots, group, groups, experts, mask, true);
}

at::Tensor max_violation(const at::Tensor& counts) {
  const at::Tensor c = counts.to(at::kDouble);
  const at::Tensor mean = c.mean(-1);
  return at::where(mean > 0, (c.amax(-1) - mean) / mean.clamp_min(1e-300), at::zeros_like(mean));
}

}  // namespace moesweep::routing
