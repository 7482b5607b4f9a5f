// Which experts a token visits, and how often each is visited. See include/moesweep/routing/router.hpp.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include "moesweep/core/error.hpp"
#include "moesweep/core/random.hpp"
#include "moesweep/routing/router.hpp"

namespace moesweep::routing {

namespace {

/// Rows of a small matrix on the CPU: insertion into a sorted list of k, which beats a sort by far for few experts.
template <class Real>
void top_k_rows(const Real* s, std::int64_t experts, std::int64_t k, std::int64_t begin, std::int64_t end, std::int64_t* chosen) {
  std::vector<Real> best(static_cast<std::size_t>(k));
  for (std::int64_t t = begin; t < end; ++t) {
    const Real* row = s + t * experts;
    std::int64_t* out = chosen + t * k;
    std::int64_t held = 0;
    for (std::int64_t e = 0; e < experts; ++e) {
      const Real value = row[e];
      // Strictly greater moves ahead: of equal ones the lower expert stays first.
      if (held == k && !(value > best[static_cast<std::size_t>(k - 1)])) continue;
      std::int64_t place = held < k ? held++ : k - 1;
      while (place > 0 && value > best[static_cast<std::size_t>(place - 1)]) {
        best[static_cast<std::size_t>(place)] = best[static_cast<std::size_t>(place - 1)];
        out[place] = out[place - 1];
        --place;
      }
      best[static_cast<std::size_t>(place)] = value;
      out[place] = e;
    }
  }
}

}  // namespace

at::Tensor top_k_indices(const at::Tensor& s, std::int64_t k) {
  MOESWEEP_ASSERT(s.dim() == 2 && k >= 1 && k <= s.size(1), "top_k_indices needs [T, E] scores and 1 <= k <= E");
  if (!s.is_cpu()) return std::get<1>(at::sort(s, /*stable=*/true, /*dim=*/1, /*descending=*/true)).narrow(1, 0, k).contiguous();
  const at::Tensor rows = s.contiguous();
  at::Tensor chosen = at::empty({s.size(0), k}, at::kLong);
  AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), "top_k_indices", [&] {
    const scalar_t* in = rows.const_data_ptr<scalar_t>();
    auto* out = chosen.mutable_data_ptr<std::int64_t>();
    at::parallel_for(0, s.size(0), 512, [&](std::int64_t begin, std::int64_t end) { top_k_rows(in, s.size(1), k, begin, end, out); });
  });
  return chosen;
}

at::Tensor random_experts(const TokenLayout& tokens, std::int64_t layer, std::int64_t experts, std::int64_t k) {
  at::Tensor chosen = at::empty({tokens.tokens(), k}, at::kLong);
  auto* out = chosen.mutable_data_ptr<std::int64_t>();
  at::parallel_for(0, tokens.tokens(), 256, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::int64_t> pool(static_cast<std::size_t>(experts));
    for (std::int64_t t = begin; t < end; ++t) {
      for (std::int64_t e = 0; e < experts; ++e) pool[static_cast<std::size_t>(e)] = e;
      const Place place{static_cast<std::uint32_t>(layer), static_cast<std::uint32_t>(tokens.step),
                        static_cast<std::uint32_t>(tokens.index[static_cast<std::size_t>(t / tokens.length)]),
                        static_cast<std::uint32_t>(t % tokens.length)};
      for (std::int64_t slot = 0; slot < k; ++slot) {  // the first k steps of a Fisher-Yates shuffle
        const auto words = random_words(static_cast<std::uint64_t>(tokens.seed), Purpose::random_router, place, static_cast<std::uint32_t>(slot));
        const auto left = static_cast<double>(experts - slot);
        const auto pick = slot + static_cast<std::int64_t>(to_uniform(words[0], words[1]) * left);
        std::swap(pool[static_cast<std::size_t>(slot)], pool[static_cast<std::size_t>(std::min(pick, experts - 1))]);
        out[t * k + slot] = pool[static_cast<std::size_t>(slot)];
      }
    }
  });
  return chosen;
}

Slots slots_of(const at::Tensor& expert) {
  const std::int64_t tokens = expert.size(0), k = expert.size(1);
  Slots slots;
  slots.token = at::arange(tokens, at::kLong).view({-1, 1}).expand({tokens, k}).reshape({tokens * k});
  slots.expert = expert.reshape({tokens * k});
  slots.offsets = at::arange(tokens + 1, at::kLong) * k;
  slots.fixed_k = k;
  return slots;
}

at::Tensor count_slots(const Slots& slots, const at::Tensor& group, std::int64_t groups, std::int64_t experts, const at::Tensor& mask) {
  at::Tensor counts = at::zeros({groups, experts}, at::kLong);
  const auto on_cpu = [](const at::Tensor& t) { return t.defined() ? t.to(at::kCPU).contiguous() : t; };
  const at::Tensor tokens = on_cpu(slots.token), ids = on_cpu(slots.expert), rows = on_cpu(group), counting = on_cpu(mask);
  const auto* token = tokens.const_data_ptr<std::int64_t>();
  const auto* id = ids.const_data_ptr<std::int64_t>();
  const auto* row = rows.const_data_ptr<std::int64_t>();
  const bool* counts_here = counting.defined() ? counting.const_data_ptr<bool>() : nullptr;
  auto* out = counts.mutable_data_ptr<std::int64_t>();
  for (std::int64_t slot = 0; slot < ids.numel(); ++slot)
    if (counts_here == nullptr || counts_here[token[slot]]) ++out[row[token[slot]] * experts + id[slot]];
  return counts;
}

}  // namespace moesweep::routing
