// Which experts a token visits, which tokens an expert takes. See include/moesweep/routing/parts.hpp.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <functional>
#include <limits>
#include <numeric>
#include <queue>

#include "kernels.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/core/random.hpp"
#include "moesweep/routing/parts.hpp"

namespace moesweep::routing {

namespace {

/// top_k_row of the rows [begin, end).
template <class Real>
MOESWEEP_INLINE void top_k_rows(const Real* in, std::int64_t experts, std::int64_t k, std::int64_t begin, std::int64_t end, std::int64_t* out,
                                std::int32_t* candidates) {
  for (std::int64_t t = begin; t < end; ++t) top_k_row(in + t * experts, experts, k, out + t * k, candidates);
}

/// Best experts first, by their `value`; of equal ones the lower. For the few of one row.
template <class Real>
void sort_by_value(std::int64_t* begin, std::int64_t* end, const Real* value) {
  std::sort(begin, end, [value](std::int64_t a, std::int64_t b) { return value[a] > value[b] || (value[a] == value[b] && a < b); });
}

/// Sum of the `count` largest of [first, first + size), the largest first.
template <class Real>
Real sum_of_largest(const Real* first, std::int64_t size, std::int64_t count, std::vector<Real>& sorted) {
  sorted.assign(first, first + size);
  std::partial_sort(sorted.begin(), sorted.begin() + count, sorted.end(), std::greater<>());
  return std::accumulate(sorted.begin(), sorted.begin() + count, Real(0));
}

std::int64_t experts_that_score(const GroupConfig& groups, std::int64_t k, std::int64_t size) {
  switch (groups.score) {
    case GroupScore::top2_sum: return std::min<std::int64_t>(2, size);
    case GroupScore::max: return 1;
    case GroupScore::megatron: return std::clamp<std::int64_t>(k / groups.keep, 1, size);
  }
  return 1;
}

/// The first k steps of a Fisher-Yates shuffle of all experts, with a number of its own for each step.
template <class Draw>
void draw_distinct(std::vector<std::int64_t>& pool, std::int64_t k, std::int64_t* out, const Draw& draw) {
  std::iota(pool.begin(), pool.end(), std::int64_t{0});
  const auto experts = static_cast<std::int64_t>(pool.size());
  for (std::int64_t slot = 0; slot < k; ++slot) {
    const auto words = draw(static_cast<std::uint32_t>(slot));
    const auto left = static_cast<double>(experts - slot);
    const auto pick = slot + static_cast<std::int64_t>(to_uniform(words[0], words[1]) * left);
    std::swap(pool[static_cast<std::size_t>(slot)], pool[static_cast<std::size_t>(std::min(pick, experts - 1))]);
    out[slot] = pool[static_cast<std::size_t>(slot)];
  }
}

/// The columns of a matrix on the CPU, one after the other, to `use(column number, values [T])`; a few at a time share their cache lines.
template <class Real, class Use>
void for_each_column(const at::Tensor& matrix, const Use& use) {
  constexpr std::int64_t kTogether = 8;
  const std::int64_t rows = matrix.size(0), columns = matrix.size(1);
  const auto* in = matrix.const_data_ptr<Real>();
  at::parallel_for(0, (columns + kTogether - 1) / kTogether, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<Real> values(static_cast<std::size_t>(kTogether * rows));
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t first = block * kTogether, count = std::min(kTogether, columns - first);
      for (std::int64_t t = 0; t < rows; ++t)
        for (std::int64_t c = 0; c < count; ++c) values[static_cast<std::size_t>(c * rows + t)] = in[t * columns + first + c];
      for (std::int64_t c = 0; c < count; ++c) use(first + c, values.data() + c * rows);
    }
  });
}

}  // namespace

at::Tensor top_k_indices(const at::Tensor& keys, std::int64_t k) {
  MOESWEEP_ASSERT(keys.dim() == 2 && k >= 1 && k <= keys.size(1), "top_k_indices needs [T, E] keys and 1 <= k <= E");
  if (!keys.is_cpu()) return std::get<1>(at::sort(keys, /*stable=*/true, /*dim=*/1, /*descending=*/true)).narrow(1, 0, k).contiguous();
  const at::Tensor rows = keys.contiguous();
  const std::int64_t experts = keys.size(1);
  at::Tensor chosen = at::empty({keys.size(0), k}, at::kLong);
  AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), "top_k_indices", [&] {
    const scalar_t* in = rows.const_data_ptr<scalar_t>();
    auto* out = chosen.mutable_data_ptr<std::int64_t>();
    at::parallel_for(0, keys.size(0), 512, [&](std::int64_t begin, std::int64_t end) {
      std::vector<std::int32_t> candidates(static_cast<std::size_t>(experts));
      with_wide_vectors<&top_k_rows<scalar_t>>(experts, in, experts, k, begin, end, out, candidates.data());
    });
  });
  return chosen;
}

at::Tensor group_limited(const at::Tensor& keys, const GroupConfig& groups, std::int64_t k) {
  const std::int64_t tokens = keys.size(0), experts = keys.size(1);
  MOESWEEP_ASSERT(groups.count >= 1 && experts % groups.count == 0 && groups.keep >= 1 && groups.keep <= groups.count,
                  "group_limited needs groups of equal size, and keeps some of them");
  const std::int64_t size = experts / groups.count, scoring = experts_that_score(groups, k, size);
  constexpr double kOut = -std::numeric_limits<double>::infinity();
  if (!keys.is_cpu()) {
    const at::Tensor by_group = keys.view({tokens, groups.count, size});
    const at::Tensor best = top_k_indices(std::get<0>(by_group.topk(scoring, -1)).sum(-1), groups.keep);
    const at::Tensor kept = at::zeros({tokens, groups.count}, keys.options().dtype(at::kBool)).scatter_(1, best, true);
    return by_group.masked_fill(kept.logical_not().unsqueeze(-1), kOut).view({tokens, experts});
  }
  const at::Tensor rows = keys.contiguous();
  at::Tensor limited = at::full_like(rows, kOut);
  AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), "group_limited", [&] {
    const scalar_t* in = rows.const_data_ptr<scalar_t>();
    auto* out = limited.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, tokens, 256, [&](std::int64_t begin, std::int64_t end) {
      std::vector<scalar_t> score(static_cast<std::size_t>(groups.count)), sorted;
      std::vector<std::int64_t> kept(static_cast<std::size_t>(groups.keep));
      for (std::int64_t t = begin; t < end; ++t) {
        const scalar_t* row = in + t * experts;
        for (std::int64_t g = 0; g < groups.count; ++g) score[static_cast<std::size_t>(g)] = sum_of_largest(row + g * size, size, scoring, sorted);
        insert_top_k(score.data(), groups.count, groups.keep, kept.data());
        for (const std::int64_t g : kept) std::copy_n(row + g * size, size, out + t * experts + g * size);
      }
    });
  });
  return limited;
}

at::Tensor grouped_top_k_indices(const at::Tensor& keys, std::int64_t groups, std::int64_t k) {
  const std::int64_t tokens = keys.size(0), experts = keys.size(1);
  MOESWEEP_ASSERT(groups >= 1 && experts % groups == 0 && k % groups == 0 && k >= groups && k <= experts,
                  "grouped_top_k_indices needs groups of equal size, and as many experts of each");
  const std::int64_t size = experts / groups, each = k / groups;
  if (!keys.is_cpu()) {
    const at::Tensor within = top_k_indices(keys.reshape({tokens * groups, size}), each).view({tokens, groups, each});
    const at::Tensor first = (at::arange(groups, within.options()) * size).view({1, groups, 1});
    const at::Tensor chosen = (within + first).view({tokens, k});
    return chosen.gather(1, top_k_indices(keys.gather(1, chosen), k));  // stable: a group's are in order, and lower groups come first
  }
  const at::Tensor rows = keys.contiguous();
  at::Tensor chosen = at::empty({tokens, k}, at::kLong);
  AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), "grouped_top_k", [&] {
    const scalar_t* in = rows.const_data_ptr<scalar_t>();
    auto* out = chosen.mutable_data_ptr<std::int64_t>();
    at::parallel_for(0, tokens, 256, [&](std::int64_t begin, std::int64_t end) {
      std::vector<std::int32_t> candidates(static_cast<std::size_t>(size));
      for (std::int64_t t = begin; t < end; ++t) {
        const scalar_t* row = in + t * experts;
        for (std::int64_t g = 0; g < groups; ++g) {
          std::int64_t* place = out + t * k + g * each;
          top_k_row(row + g * size, size, each, place, candidates.data());
          for (std::int64_t i = 0; i < each; ++i) place[i] += g * size;
        }
        sort_by_value(out + t * k, out + (t + 1) * k, row);
      }
    });
  });
  return chosen;
}

Slots top_p_slots(const at::Tensor& probabilities, double share, std::int64_t most, const at::Tensor& mask) {
  const std::int64_t tokens = probabilities.size(0), width = std::clamp<std::int64_t>(most, 1, probabilities.size(1));
  const at::Tensor order = top_k_indices(probabilities, width).to(at::kCPU);
  const at::Tensor sorted = probabilities.detach().to(at::kCPU, at::kDouble).gather(1, order).contiguous();
  const at::Tensor counting = mask.defined() ? mask.to(at::kCPU).contiguous() : mask;
  const bool* counts = counting.defined() ? counting.const_data_ptr<bool>() : nullptr;
  const auto* p = sorted.const_data_ptr<double>();
  const auto* ids = order.const_data_ptr<std::int64_t>();
  Slots slots;
  slots.offsets = at::zeros({tokens + 1}, at::kLong);
  auto* offsets = slots.offsets.mutable_data_ptr<std::int64_t>();
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::int64_t taken = 0;
    if (counts == nullptr || counts[t]) {
      double sum = 0;
      while (taken < width && (taken == 0 || sum < share)) sum += p[t * width + taken++];
    }
    offsets[t + 1] = offsets[t] + taken;
  }
  slots.token = at::empty({offsets[tokens]}, at::kLong);
  slots.expert = at::empty({offsets[tokens]}, at::kLong);
  auto* token = slots.token.mutable_data_ptr<std::int64_t>();
  auto* expert = slots.expert.mutable_data_ptr<std::int64_t>();
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t i = offsets[t]; i < offsets[t + 1]; ++i) {
      token[i] = t;
      expert[i] = ids[t * width + i - offsets[t]];
    }
  return slots;
}

at::Tensor random_experts(const TokenLayout& tokens, std::int64_t layer, std::int64_t experts, std::int64_t k) {
  MOESWEEP_ASSERT(k >= 1 && k <= experts, "random_experts needs 1 <= k <= E");
  at::Tensor chosen = at::empty({tokens.tokens(), k}, at::kLong);
  auto* out = chosen.mutable_data_ptr<std::int64_t>();
  const std::vector<std::int64_t> index = tokens.index_of_token(), position = tokens.position_of_token();
  at::parallel_for(0, tokens.tokens(), 256, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::int64_t> pool(static_cast<std::size_t>(experts));
    for (std::int64_t t = begin; t < end; ++t) {
      const Place place{static_cast<std::uint32_t>(layer), static_cast<std::uint32_t>(tokens.step),
                        static_cast<std::uint32_t>(index[static_cast<std::size_t>(t)]),
                        static_cast<std::uint32_t>(position[static_cast<std::size_t>(t)])};
      draw_distinct(pool, k, out + t * k,
                    [&](std::uint32_t slot) { return random_words(static_cast<std::uint64_t>(tokens.seed), Purpose::random_router, place, slot); });
    }
  });
  return chosen;
}

at::Tensor hash_table(HashTable kind, std::int64_t seed, std::int64_t layer, std::int64_t vocabulary, std::int64_t experts, std::int64_t k,
                      const std::vector<double>& frequency) {
  MOESWEEP_ASSERT(k >= 1 && k <= experts, "hash_table needs 1 <= k <= E");
  at::Tensor table = at::empty({vocabulary, k}, at::kLong);
  auto* out = table.mutable_data_ptr<std::int64_t>();
  if (kind == HashTable::random) {
    std::vector<std::int64_t> pool(static_cast<std::size_t>(experts));
    for (std::int64_t id = 0; id < vocabulary; ++id) {
      const Place place{static_cast<std::uint32_t>(layer), 0, 0, static_cast<std::uint32_t>(id)};
      draw_distinct(pool, k, out + id * k,
                    [&](std::uint32_t slot) { return random_words(static_cast<std::uint64_t>(seed), Purpose::hash_table, place, slot); });
    }
    return table;
  }
  MOESWEEP_ASSERT(static_cast<std::int64_t>(frequency.size()) == vocabulary, "a balanced hash table needs the frequency of every token id");
  std::vector<std::int64_t> order(static_cast<std::size_t>(vocabulary));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return frequency[static_cast<std::size_t>(a)] > frequency[static_cast<std::size_t>(b)]; });
  using Bin = std::pair<double, std::int64_t>;  // load, expert: the least loaded on top, of equal ones the lower
  std::priority_queue<Bin, std::vector<Bin>, std::greater<>> bins;
  for (std::int64_t e = 0; e < experts; ++e) bins.emplace(0.0, e);
  std::vector<Bin> taken(static_cast<std::size_t>(k));
  for (const std::int64_t id : order) {
    for (Bin& bin : taken) {
      bin = bins.top();
      bins.pop();
    }
    for (std::int64_t slot = 0; slot < k; ++slot) {
      const auto [load, expert] = taken[static_cast<std::size_t>(slot)];
      out[id * k + slot] = expert;
      bins.emplace(load + frequency[static_cast<std::size_t>(id)], expert);
    }
  }
  return table;
}

at::Tensor comparable(const at::Tensor& values) {
  if (values.scalar_type() != at::kDouble) return values;
  constexpr std::int64_t kDropped = 16;  // of the 52 bits of a mantissa
  const at::Tensor bits = values.contiguous().view(at::kLong);
  return (bits + (std::int64_t{1} << (kDropped - 1))).bitwise_right_shift(kDropped).bitwise_left_shift(kDropped).view(at::kDouble);
}

at::Tensor expert_choice_unit(const at::Tensor& scores, std::int64_t count) {
  const at::Tensor rows = scores.detach().to(at::kCPU).contiguous();
  const std::int64_t tokens = rows.size(0), experts = rows.size(1);
  if (count >= tokens || count <= 0) return at::full({tokens, experts}, count > 0, at::kBool);
  at::Tensor chosen = at::zeros({experts, tokens}, at::kBool);  // by expert, so that threads write apart
  auto* out = chosen.mutable_data_ptr<bool>();
  AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), "expert_choice", [&] {
    for_each_column<scalar_t>(rows, [&](std::int64_t e, const scalar_t* values) {
      std::vector<scalar_t> sorted(values, values + tokens);
      std::nth_element(sorted.begin(), sorted.begin() + (count - 1), sorted.end(), std::greater<>());
      const scalar_t last = sorted[static_cast<std::size_t>(count - 1)];
      std::int64_t left = count;
      for (std::int64_t t = 0; t < tokens; ++t) left -= values[t] > last ? 1 : 0;
      for (std::int64_t t = 0; t < tokens; ++t) {
        const bool tied = values[t] == last && left > 0;  // of equal ones the lower token
        out[e * tokens + t] = values[t] > last || tied;
        left -= tied ? 1 : 0;
      }
    });
  });
  return chosen.t().contiguous();
}

at::Tensor column_quantile(const at::Tensor& values, std::int64_t n) {
  const at::Tensor rows = values.detach().to(at::kCPU).contiguous();
  const std::int64_t tokens = rows.size(0);
  at::Tensor quantile = at::zeros({rows.size(1)}, at::kDouble);
  if (tokens == 0) return quantile;
  auto* out = quantile.mutable_data_ptr<double>();
  const std::int64_t place = std::clamp<std::int64_t>(n, 1, tokens) - 1;
  AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), "column_quantile", [&] {
    for_each_column<scalar_t>(rows, [&](std::int64_t e, scalar_t* column) {
      std::nth_element(column, column + place, column + tokens, std::greater<>());
      out[e] = static_cast<double>(column[place]);
    });
  });
  return quantile;
}

}  // namespace moesweep::routing
