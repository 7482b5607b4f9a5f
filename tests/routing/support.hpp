// Random steps for routing tests, as the library's and as the oracle's input.
#pragma once

#include <ATen/ATen.h>

#include <utility>

#include "moesweep/core/random.hpp"
#include "moesweep/routing/router.hpp"
#include "reference/routing_reference.hpp"

namespace moesweep::routing {

/// A whole step of `sequences` sequences: logits by a seeded normal times `spread`, domains in turn.
struct Step {
  TokenLayout layout;
  at::Tensor logits;  ///< [T, E] fp64
  reference::Input oracle;
};

inline Step make_step(std::uint64_t seed, std::int64_t sequences, std::int64_t length, std::int64_t experts, std::int64_t k, double spread = 1.0,
                      bool masked = false) {
  Step step;
  auto& layout = step.layout;
  layout.sequences = sequences;
  layout.length = length;
  layout.micro_batch_sequences = 2;
  layout.step_tokens = 0;
  step.logits = at::empty({sequences * length, experts}, at::kDouble);
  auto* out = step.logits.mutable_data_ptr<double>();
  step.oracle.T = sequences * length;
  step.oracle.E = experts;
  step.oracle.k = k;
  std::vector<bool> mask;
  for (std::int64_t s = 0; s < sequences; ++s) {
    layout.index.push_back(s);
    layout.domain.push_back(s % 4);
    for (std::int64_t t = 0; t < length; ++t) {
      const bool counts = !masked || t < length - (s % 3);
      layout.step_tokens += counts ? 1 : 0;
      step.oracle.domain.push_back(s % 4);
      step.oracle.sequence.push_back(s);
      step.oracle.micro_batch.push_back(s / 2);
      step.oracle.mask.push_back(counts ? 1 : 0);
      for (std::int64_t e = 0; e < experts; ++e) {
        const Place place{0, static_cast<std::uint32_t>(e), static_cast<std::uint32_t>(s), static_cast<std::uint32_t>(t)};
        const double value = spread * to_normals(random_words(seed, Purpose::test, place))[0];
        *out++ = value;
        step.oracle.logits.push_back(value);
      }
    }
  }
  if (masked) {
    layout.mask = at::empty({layout.tokens()}, at::kBool);
    for (std::int64_t t = 0; t < layout.tokens(); ++t) layout.mask[t] = step.oracle.mask[static_cast<std::size_t>(t)] != 0;
  }
  return step;
}

/// The sequences [first, first + count) of a step as a pass of its own.
inline std::pair<TokenLayout, at::Tensor> part_of(const Step& step, std::int64_t first, std::int64_t count) {
  TokenLayout layout = step.layout;
  layout.sequences = count;
  layout.index.assign(step.layout.index.begin() + first, step.layout.index.begin() + first + count);
  layout.domain.assign(step.layout.domain.begin() + first, step.layout.domain.begin() + first + count);
  if (layout.mask.defined()) layout.mask = layout.mask.narrow(0, first * layout.length, count * layout.length);
  return {layout, step.logits.narrow(0, first * layout.length, count * layout.length)};
}

inline reference::Score oracle_score(Score score) { return static_cast<reference::Score>(score); }
inline reference::Scope oracle_scope(ScopeKind scope) { return static_cast<reference::Scope>(scope); }

}  // namespace moesweep::routing
