// A routing strategy at one MoE layer: `decide` without gradient over all that a scope needs, then `apply` with gradient pass by pass.
//
// In flight a step is one pass: decide({pass}), apply(pass). In two phases all passes of a step go through the model without
// gradient first and are decided together, layer by layer; then each pass trains with its decision given. Either way a
// decision is made once per (step, layer, sequence).
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "moesweep/comm/transport.hpp"
#include "moesweep/routing/config.hpp"
#include "moesweep/routing/parts.hpp"
#include "moesweep/routing/scope.hpp"
#include "moesweep/routing/scores.hpp"
#include "moesweep/routing/strategy.hpp"

namespace moesweep::routing {

class LayerRouter {
 public:
  /// `gang` must outlive the router. `config` is the layer's own (`RoutingConfig::of_layer`) and was not refused.
  LayerRouter(const RoutingConfig& config, RouterPlace place, comm::Transport& gang);
  LayerRouter(LayerRouter&&) noexcept;
  ~LayerRouter();

  const RoutingConfig& config() const { return config_; }
  const RouterPlace& place() const { return place_; }
  /// The config with the values of its schedules at this step.
  const RoutingConfig& now() const { return now_; }
  /// Before each step's, and each evaluation's, first decision: schedules take their values. Steps count from 0.
  void begin_step(std::int64_t step);

  /// True when a statistic or a decision needs all passes of a step (or evaluation batch) at once: several passes must run in two phases.
  bool needs_whole_step(Mode mode) const;
  /// True when logits up to a position cannot depend on later tokens in this mode, at this step.
  bool causal(Mode mode) const;
  /// True when evaluation has two readings that differ.
  bool readings_differ() const;

  /// Collective over the gang where a scope spans ranks: every rank calls with as many passes, empty ones included.
  /// With `Mode::train` the balancing state of the step accumulates (see `end_step`).
  std::vector<Decision> decide(std::span<const Scores> passes, Mode mode);

  /// Gate weights and losses of one pass, differentiable in the logits.
  Assignment apply(const Scores& scores, const Decision& decision, Mode mode) const;

  /// The gate weights alone, without losses: for phase one.
  Assignment weigh(const Scores& scores, const Decision& decision, Mode mode) const;

  /// Collective. Updates persistent state (biases, cut-offs, histories) from what the step's decisions counted; call once after each optimizer step.
  void end_step();

  /// Persistent state by name, for checkpoints: fp64 tensors that may be written through. Empty when the strategy has none.
  std::vector<std::pair<std::string, at::Tensor>> state();
  /// The names of the losses that `apply` may give.
  std::vector<std::string> loss_names() const;

 private:
  struct Term;
  /// `noise` are draws made before, or undefined.
  PassView view(const Scores& scores, Mode mode, const at::Tensor& noise = {}) const;
  bool balances_units(Mode mode) const;
  std::vector<Slots> choose(std::span<PassView> passes, Mode mode);
  void drop(std::span<PassView> passes) const;
  Assignment weigh(const PassView& pass) const;
  std::vector<UnitStatistics> statistics(Term& term, std::span<const PassView> passes);

  RoutingConfig config_, now_, greedy_;  ///< greedy_: now_ as the greedy reading has it
  RouterPlace place_;
  std::int64_t step_ = 0;
  comm::Transport* gang_;
  std::unique_ptr<Selection> selection_, greedy_selection_;
  std::vector<Term> terms_;  ///< the selection's own statistics first, where it has any, then the balancing terms
};

}  // namespace moesweep::routing
