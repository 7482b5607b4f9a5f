// A routing strategy at one MoE layer: `decide` without gradient over all that a scope needs, then `apply` with gradient pass by pass.
//
// In flight a step is one pass: decide({pass}), apply(pass). In two phases all passes of a step go through the model without
// gradient first and are decided together, layer by layer; then each pass trains with its decision given. Either way a
// decision is made once per (step, layer, sequence).
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "moesweep/comm/transport.hpp"
#include "moesweep/routing/config.hpp"
#include "moesweep/routing/scope.hpp"
#include "moesweep/routing/scores.hpp"

namespace moesweep::routing {

class LayerRouter {
 public:
  /// `gang` must outlive the router. `experts` and `domains` as in the model and the data.
  LayerRouter(const RoutingConfig& config, std::int64_t layer, std::int64_t experts, std::int64_t domains, comm::Transport& gang);

  /// True when a statistic or a decision needs all passes of a step (or evaluation batch) at once: several passes must run in two phases.
  bool needs_whole_step(Mode mode) const;
  /// True when logits up to a position cannot depend on later tokens, in training.
  bool causal() const { return true; }

  /// True when evaluation has two readings that differ. A bias is persistent state and stays in both.
  bool readings_differ() const { return false; }

  /// Collective over the gang where a scope spans ranks: every rank calls with as many passes, empty ones included.
  /// With `Mode::train` the balancing state of the step accumulates (see `end_step`).
  std::vector<Decision> decide(std::span<const Scores> passes, Mode mode);

  /// Gate weights and losses of one pass, differentiable in the logits.
  Assignment apply(const Scores& scores, const Decision& decision) const;

  /// Collective. Updates persistent state (biases) from what the step's decisions counted; call once after each optimizer step.
  void end_step();

  /// Persistent state by name, for checkpoints: fp64 tensors that may be written through. Empty when the strategy has none.
  std::vector<std::pair<std::string, at::Tensor>> state();

 private:
  struct Term {
    BalanceConfig config;
    Scope scope;
  };
  at::Tensor choose(const Scores& scores) const;  // [T, k] i64

  RoutingConfig config_;
  std::int64_t layer_, experts_, domains_;
  comm::Transport* gang_;
  std::vector<Term> terms_;
  std::optional<std::size_t> bias_term_;  ///< index of the expert_bias term
  at::Tensor bias_;                       ///< [E] fp64, defined with expert_bias
  at::Tensor bias_step_;                  ///< [E + 1] fp64: summed steps of the units seen since end_step, and their number
};

// The parts, as pure functions.

/// s [T, E] of the logits: the scores that selection compares (softmax for softmax_selected too).
at::Tensor scores_of(const at::Tensor& logits, Score score);
/// p [T, E]: scores normalised to sum 1 over experts.
at::Tensor probabilities_of(const at::Tensor& logits, Score score);
/// Gate weights [T, k] of the chosen experts from unbiased scores, times `scale`.
at::Tensor gate_weights(const at::Tensor& logits, const at::Tensor& expert, Score score, double scale);
/// The k largest of each row: [T, k] i64, largest first; ties go to the lowest expert.
at::Tensor top_k_indices(const at::Tensor& s, std::int64_t k);
/// k distinct experts per token, uniform, as a function of (seed, step, layer, sequence, position): [T, k] i64.
at::Tensor random_experts(const TokenLayout& tokens, std::int64_t layer, std::int64_t experts, std::int64_t k);
/// (token, slot) pairs by group: `group` [T] i64 in [0, groups); masked tokens are left out, dropped slots count. [groups, E] i64.
at::Tensor count_slots(const Slots& slots, const at::Tensor& group, std::int64_t groups, std::int64_t experts, const at::Tensor& mask);
/// The weight-free balancing loss E sum_u sum_e f[u, e] sum_{t in u} p[t, e] over the step's tokens (FORMULAS: aux loss); gradient through p only.
at::Tensor aux_loss(const at::Tensor& probabilities, const at::Tensor& load, const at::Tensor& unit_of_token, const at::Tensor& mask,
                    std::int64_t step_tokens);
/// mean over the step's tokens of logsumexp(logits)^2, this pass's share.
at::Tensor z_loss(const at::Tensor& logits, const at::Tensor& mask, std::int64_t step_tokens);
/// (max c - mean c) / mean c of each row of counts [..., E], fp64; 0 for a row of zeros.
at::Tensor max_violation(const at::Tensor& counts);

}  // namespace moesweep::routing
