// Small models with fixed tokens, and one training step of them.
#pragma once

#include <string>
#include <vector>

#include "moesweep/core/random.hpp"
#include "moesweep/model/moe_model.hpp"

namespace moesweep::model {

struct Case {
  ModelConfig model;
  routing::RoutingConfig routing;
  std::int64_t vocabulary = 13, sequences = 3, length = 5;
  std::string name = {};
};

inline Case small_case() {
  Case c;
  c.model.width = 8;
  c.model.layers = 2;
  c.model.heads = 2;
  c.model.experts = 4;
  c.model.expert_width = 6;
  c.model.router_init_deviation = 0.7;
  c.model.head_init_deviation = 0.5;
  c.routing.top_k = 2;
  return c;
}

inline PassInput pass_of(const Case& c) {
  PassInput pass;
  std::vector<std::int64_t> tokens, targets;
  for (std::int64_t i = 0; i < c.sequences * c.length; ++i) {
    const auto words = random_words(5, Purpose::test, {0, 0, 0, static_cast<std::uint32_t>(i)});
    tokens.push_back(words[0] % static_cast<std::uint32_t>(c.vocabulary));
    targets.push_back(words[1] % static_cast<std::uint32_t>(c.vocabulary));
  }
  pass.tokens = at::tensor(tokens, at::kLong);
  pass.targets = at::tensor(targets, at::kLong);
  pass.layout.sequences = c.sequences;
  pass.layout.length = c.length;
  for (std::int64_t s = 0; s < c.sequences; ++s) {
    pass.layout.index.push_back(s);
    pass.layout.domain.push_back(s % 2);
  }
  pass.layout.ids = pass.tokens;
  pass.layout.seed = 7;
  pass.layout.step_tokens = c.sequences * c.length;
  return pass;
}

/// The pass cut into passes of so many sequences.
inline std::vector<PassInput> cut(const PassInput& whole, std::int64_t sequences) {
  std::vector<PassInput> passes;
  const std::int64_t length = whole.layout.length;
  for (std::int64_t first = 0; first < whole.layout.sequences; first += sequences) {
    PassInput pass = whole;
    const std::int64_t count = std::min(sequences, whole.layout.sequences - first);
    const auto part = [&](const at::Tensor& t) { return t.defined() ? t.narrow(0, first * length, count * length) : t; };
    pass.tokens = part(whole.tokens);
    pass.targets = part(whole.targets);
    pass.layout.ids = part(whole.layout.ids);
    pass.layout.mask = part(whole.layout.mask);
    pass.layout.sequences = count;
    pass.layout.index.assign(whole.layout.index.begin() + first, whole.layout.index.begin() + first + count);
    pass.layout.domain.assign(whole.layout.domain.begin() + first, whole.layout.domain.begin() + first + count);
    passes.push_back(std::move(pass));
  }
  return passes;
}

/// The loss of a pass: its counting tokens' weighted losses over the step's tokens, and all other losses. Weights differ by token, so that a
/// gradient that ignores its factor is seen.
inline at::Tensor loss_of(const PassInput& pass, const PassResult& result) {
  std::vector<double> factors;
  for (std::int64_t s = 0; s < pass.layout.sequences; ++s)
    for (std::int64_t t = 0; t < pass.layout.length; ++t)
      factors.push_back(1.5 + std::sin(static_cast<double>(1 + pass.layout.index[static_cast<std::size_t>(s)] * 31 + t)));
  at::Tensor factor = at::tensor(factors, at::kDouble);
  if (pass.layout.mask.defined()) factor = factor * pass.layout.mask.to(at::kDouble);
  at::Tensor loss = (result.token_loss * factor).sum() / static_cast<double>(pass.layout.step_tokens);
  for (const auto& [name, part] : result.losses) loss = loss + part;
  return loss;
}

/// What one training step gives: losses by name, and all gradients.
struct Step {
  std::map<std::string, double> losses;
  double loss = 0;
  at::Tensor dense, expert;
};

/// One step through the passes, in two phases where they need it.
inline Step train_step(MoeModel& model, const std::vector<PassInput>& passes) {
  Step step;
  model.parameters().zero_gradients();
  model.begin_step(passes.front().layout.step, true);
  const auto given = model.decide_step(passes, routing::Mode::train);
  for (std::size_t p = 0; p < passes.size(); ++p) {
    const auto result = model.forward(passes[p], given.empty() ? nullptr : &given[p], routing::Mode::train);
    for (const auto& [name, loss] : result.losses) step.losses[name] += loss.item<double>();
    const at::Tensor loss = loss_of(passes[p], result);
    step.loss += loss.item<double>();
    loss.backward();
  }
  step.dense = model.parameters().buffers(ParameterClass::dense).gradient.clone();
  step.expert = model.parameters().buffers(ParameterClass::expert).gradient.clone();
  return step;
}

}  // namespace moesweep::model
