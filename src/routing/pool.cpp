// One decision for many tokens: what stands for them, and where it draws. See include/moesweep/routing/parts.hpp.
#include <ATen/ATen.h>

#include "moesweep/routing/parts.hpp"

namespace moesweep::routing {

namespace {

/// What a token's decision is made of.
struct Pools {
  at::Tensor pool;    ///< [T] i64, the pool whose mean stands for the token
  at::Tensor member;  ///< [T] bool, true where the token's row is part of that mean
  at::Tensor own;     ///< [T] bool, true where the token decides for itself; undefined: nowhere
  std::int64_t count = 0;
  std::vector<std::int64_t> behind;  ///< prefix: [sequences], position of the first token behind the prefix
};

bool is_pooled(Granularity granularity, const PoolConfig& pool) {
  return granularity == Granularity::batch || (granularity == Granularity::sequence && pool.by != Pooling::domain);
}

Pools pools_of(const TokenLayout& tokens, Granularity granularity, const PoolConfig& pool) {
  Pools pools;
  pools.pool = tokens.sequence_of_token();
  pools.member = tokens.mask.defined() ? tokens.mask.to(at::kCPU).clone() : at::ones({tokens.tokens()}, at::kBool);
  pools.count = tokens.sequences;
  if (granularity == Granularity::batch) {  // micro-batches in the order of the pass
    at::Tensor unit = at::zeros({tokens.sequences}, at::kLong);
    pools.count = 0;
    for (std::int64_t s = 0; s < tokens.sequences; ++s) {
      const auto number = [&](std::int64_t i) { return tokens.index[static_cast<std::size_t>(i)] / tokens.micro_batch_sequences; };
      if (s == 0 || number(s) != number(s - 1)) ++pools.count;
      unit.mutable_data_ptr<std::int64_t>()[s] = pools.count - 1;
    }
    pools.pool = tokens.spread(unit);
  } else if (pool.by == Pooling::prefix) {
    pools.own = at::zeros({tokens.tokens()}, at::kBool);
    auto* member = pools.member.mutable_data_ptr<bool>();
    auto* own = pools.own.mutable_data_ptr<bool>();
    for (std::int64_t s = 0; s < tokens.sequences; ++s) {
      std::int64_t t = tokens.begin_of(s);
      for (std::int64_t left = pool.prefix_tokens; t < tokens.begin_of(s + 1) && left > 0; ++t) {
        own[t] = true;
        left -= member[t] ? 1 : 0;
      }
      pools.behind.push_back(t - tokens.begin_of(s));
      std::fill(member + t, member + tokens.begin_of(s + 1), false);
    }
  }
  return pools;
}

}  // namespace

at::Tensor pool_rows(const at::Tensor& rows, const TokenLayout& tokens, Granularity granularity, const PoolConfig& pool) {
  if (!is_pooled(granularity, pool)) return rows;
  const Pools pools = pools_of(tokens, granularity, pool);
  const at::Tensor of_token = pools.pool.to(rows.device()), member = pools.member.to(rows.device());
  // Rows that do not count are taken out, not multiplied by 0: they may hold anything.
  const at::Tensor counting = rows.masked_fill(member.logical_not().unsqueeze(1), 0);
  const at::Tensor sum = at::zeros({pools.count, rows.size(1)}, rows.options()).index_add(0, of_token, counting);
  const at::Tensor size = at::zeros({pools.count}, rows.options()).index_add(0, of_token, member.to(rows.scalar_type())).clamp_min(1);
  const at::Tensor mean = (sum / size.unsqueeze(1)).index_select(0, of_token);
  return pools.own.defined() ? at::where(pools.own.to(rows.device()).unsqueeze(1), counting, mean) : mean;
}

TokenLayout decision_layout(const TokenLayout& tokens, Granularity granularity, const PoolConfig& pool) {
  if (!is_pooled(granularity, pool)) return tokens;
  TokenLayout places = tokens;
  places.place_index = tokens.index_of_token();
  places.place_position.assign(static_cast<std::size_t>(tokens.tokens()), 0);
  if (granularity == Granularity::batch) {
    for (std::int64_t& index : places.place_index) index -= index % tokens.micro_batch_sequences;
  } else if (pool.by == Pooling::prefix) {
    const Pools pools = pools_of(tokens, granularity, pool);
    for (std::int64_t s = 0; s < tokens.sequences; ++s)
      for (std::int64_t t = tokens.begin_of(s); t < tokens.begin_of(s + 1); ++t)
        places.place_position[static_cast<std::size_t>(t)] = std::min(t - tokens.begin_of(s), pools.behind[static_cast<std::size_t>(s)]);
  }
  return places;
}

}  // namespace moesweep::routing
