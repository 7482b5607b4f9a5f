// Random steps for routing tests, as the library's and as the oracle's input, and a driver that runs a router over any cut of a step.
#pragma once

#include <gtest/gtest.h>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "moesweep/core/random.hpp"
#include "moesweep/routing/router.hpp"
#include "reference/routing_reference.hpp"

namespace moesweep::routing {

/// A whole step of `sequences` sequences: logits by a seeded normal times `spread`, domains in turn, token ids by a seeded draw of 16.
struct Step {
  TokenLayout layout;
  at::Tensor logits;        ///< [T, E] fp64
  at::Tensor noise_logits;  ///< [T, E] fp64
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
  layout.seed = 5;
  layout.step = static_cast<std::int64_t>(seed);
  layout.ids = at::empty({sequences * length}, at::kLong);
  step.logits = at::empty({sequences * length, experts}, at::kDouble);
  step.noise_logits = at::empty({sequences * length, experts}, at::kDouble);
  auto* out = step.logits.mutable_data_ptr<double>();
  auto* noise = step.noise_logits.mutable_data_ptr<double>();
  step.oracle.T = sequences * length;
  step.oracle.E = experts;
  step.oracle.k = k;
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
        const auto normals = to_normals(random_words(seed, Purpose::test, place));
        *out++ = spread * normals[0];
        *noise++ = normals[1];
        step.oracle.logits.push_back(spread * normals[0]);
      }
      const Place place{1, 0, static_cast<std::uint32_t>(s), static_cast<std::uint32_t>(t)};
      layout.ids[s * length + t] = static_cast<std::int64_t>(random_words(seed, Purpose::test, place)[0] % 16);
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
  layout.ids = layout.ids.narrow(0, first * layout.length, count * layout.length);
  if (layout.mask.defined()) layout.mask = layout.mask.narrow(0, first * layout.length, count * layout.length);
  return {layout, step.logits.narrow(0, first * layout.length, count * layout.length)};
}

inline RouterPlace place_of(std::int64_t experts) {
  RouterPlace place;
  place.experts = place.ffn_experts = experts;
  place.domains = 4;
  place.seed = 5;
  place.vocabulary = 16;
  for (int id = 0; id < 16; ++id) place.token_frequency.push_back(1.0 / (1 + id));
  return place;
}

inline reference::Score oracle_score(Score score) {
  EXPECT_LE(score, Score::sigmoid) << "the first oracle knows three scores";
  return static_cast<reference::Score>(score);
}
inline reference::Scope oracle_scope(ScopeKind scope) {
  switch (scope) {
    case ScopeKind::sequence: return reference::Scope::sequence;
    case ScopeKind::micro_batch: return reference::Scope::micro_batch;
    default: return reference::Scope::global_batch;
  }
}

/// What a router made of a rank's part of a step.
struct Outcome {
  at::Tensor token, expert, weight, dropped;  ///< of the rank's slots; tokens numbered within the rank's part
  std::map<std::string, double> losses;       ///< summed over the gang
  at::Tensor gradient;                        ///< [tokens of the part, E] of all losses and of sum upstream * weight
  std::map<std::string, at::Tensor> state;    ///< after the step
};

/// How the part is cut.
struct Cut {
  std::int64_t first = 0, count = 0;  ///< sequences of this rank
  std::int64_t per_pass = 0;          ///< 0: one pass
  std::int64_t passes = 0;            ///< at least so many; missing ones are empty
  bool two_phase = false;             ///< decide all passes together though nothing needs it
};

/// Routes, differentiates and ends a step.
inline Outcome run_step(LayerRouter& router, const Step& step, const Cut& cut, comm::Transport& gang, Mode mode = Mode::train) {
  router.begin_step(step.layout.step);
  const RoutingConfig& config = router.config();
  const std::int64_t per_pass = cut.per_pass > 0 ? cut.per_pass : std::max<std::int64_t>(1, cut.count), length = step.layout.length;
  std::vector<TokenLayout> layouts;
  std::vector<at::Tensor> leaves, pooled, noise;
  for (std::int64_t begin = 0; begin < cut.count || static_cast<std::int64_t>(layouts.size()) < cut.passes; begin += per_pass) {
    const std::int64_t from = std::min(begin, cut.count), count = std::min(per_pass, cut.count - from);
    auto [layout, logits] = part_of(step, cut.first + from, count);
    layouts.push_back(layout);
    leaves.push_back(logits.clone().set_requires_grad(true));
    noise.push_back(config.noise.learned ? step.noise_logits.narrow(0, (cut.first + from) * length, count * length) : at::Tensor());
  }
  std::vector<Scores> scores;
  for (std::size_t p = 0; p < layouts.size(); ++p) {
    pooled.push_back(config.granularity == Granularity::token ? leaves[p] : pool_rows(leaves[p], layouts[p], config.granularity, config.pool));
    scores.push_back({pooled[p], 0, &layouts[p], noise[p]});
  }
  std::vector<Decision> decisions;
  if (cut.two_phase || router.needs_whole_step(mode)) decisions = router.decide(scores, mode);
  else
    for (const Scores& pass : scores) decisions.push_back(router.decide({&pass, 1}, mode)[0]);

  Outcome outcome;
  std::vector<at::Tensor> tokens, experts, weights, dropped, gradients;
  std::int64_t first_token = 0;
  for (std::size_t p = 0; p < scores.size(); ++p) {
    const Assignment assignment = router.apply(scores[p], decisions[p], mode);
    const Slots& slots = assignment.slots;
    const at::Tensor upstream = ((slots.token + (first_token + cut.first * length)) * 31 + slots.expert * 7).to(at::kDouble).sin() * 1e-2;
    at::Tensor whole = (assignment.weight * upstream).sum();
    for (const auto& [name, loss] : assignment.losses) {
      outcome.losses[name] += loss.item<double>();
      whole = whole + loss;
    }
    for (const auto& pool : assignment.pooled) {
      const at::Tensor loss = (pool.load * pool.probabilities).sum() * pool.factor;
      outcome.losses[pool.loss] += loss.item<double>();
      whole = whole + loss;
    }
    gradients.push_back(whole.requires_grad() ? torch::autograd::grad({whole}, {leaves[p]}, {}, std::nullopt, false, true)[0] : at::Tensor());
    if (!gradients.back().defined()) gradients.back() = at::zeros_like(leaves[p]);
    tokens.push_back(slots.token + first_token);
    experts.push_back(slots.expert);
    weights.push_back(assignment.weight.detach());
    dropped.push_back(slots.dropped.defined() ? slots.dropped : at::zeros({slots.expert.numel()}, at::kBool));
    first_token += layouts[p].tokens();
  }
  for (const std::string& name : router.loss_names())
    if (mode == Mode::train) outcome.losses[name] = gang.all_reduce_sum(outcome.losses[name], "loss");
  outcome.token = at::cat(tokens);
  outcome.expert = at::cat(experts);
  outcome.weight = at::cat(weights);
  outcome.dropped = at::cat(dropped);
  outcome.gradient = at::cat(gradients);
  if (mode == Mode::train) router.end_step();
  for (auto& [name, tensor] : router.state()) outcome.state[name] = tensor.clone();
  return outcome;
}

/// The share of `sequences` that a rank takes, in whole micro-batches of two.
inline Cut share_of_rank(std::int64_t sequences, int rank, int ranks) {
  const std::int64_t micro_batches = sequences / 2, first = micro_batches * rank / ranks * 2;
  return {first, micro_batches * (rank + 1) / ranks * 2 - first, 0, 0, false};
}

/// Part of a whole step's outcome against that of a rank that had only [first, first + count) sequences.
inline void expect_same(const Outcome& whole, const Outcome& part, const Cut& cut, std::int64_t length, double tolerance, const std::string& what) {
  const std::int64_t begin = cut.first * length, end = begin + cut.count * length;
  const at::Tensor mine = (whole.token >= begin).logical_and(whole.token < end);
  const auto select = [&](const at::Tensor& values) { return values.masked_select(mine); };
  ASSERT_TRUE(at::equal(select(whole.token) - begin, part.token)) << what;
  ASSERT_TRUE(at::equal(select(whole.expert), part.expert)) << what;
  EXPECT_TRUE(at::equal(select(whole.dropped), part.dropped)) << what;
  EXPECT_TRUE(at::allclose(select(whole.weight), part.weight, tolerance, tolerance)) << what;
  const at::Tensor gradient = whole.gradient.narrow(0, begin, end - begin);
  EXPECT_TRUE(at::allclose(gradient, part.gradient, tolerance, tolerance))
      << what << ": gradients differ by " << (gradient - part.gradient).abs().max().item<double>();
  for (const auto& [name, value] : whole.losses)
    EXPECT_NEAR(part.losses.at(name), value, tolerance * std::max(1.0, std::abs(value))) << what << ": " << name;
  for (const auto& [name, value] : whole.state) EXPECT_TRUE(at::allclose(part.state.at(name), value, tolerance, tolerance)) << what << ": " << name;
}

}  // namespace moesweep::routing
