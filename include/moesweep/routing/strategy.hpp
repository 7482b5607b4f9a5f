// The parts of a strategy that have a say of their own, and how one from outside the library joins them: a class, a registration, a preset.
//
//   struct ToyOptions {
//     double share = 0.5;
//     void list(moesweep::FieldList& fields) { fields.add("share", share, "what it does").at_least(0); }
//   };
//   class Toy final : public moesweep::routing::Selection { ... };
//   const bool registered = moesweep::routing::register_selection<ToyOptions>("toy", [](const auto& context) { return std::make_unique<Toy>(...); });
//
// `routing.select = toy` and `routing.toy.share` are then keys of every sweep file, part of trial ids, schema and reference.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "moesweep/comm/transport.hpp"
#include "moesweep/routing/config.hpp"
#include "moesweep/routing/recording.hpp"
#include "moesweep/routing/scores.hpp"

namespace moesweep::routing {

/// Where a router stands.
struct RouterPlace {
  std::int64_t layer = 0;    ///< MoE layer, from 0
  std::int64_t layers = 1;   ///< MoE layers of the model
  std::int64_t experts = 0;  ///< that the router chooses among: FFN experts first, then zero, copy and constant ones
  std::int64_t ffn_experts = 0;
  std::int64_t domains = 0;
  std::int64_t seed = 0;
  std::int64_t vocabulary = 0;                 ///< for hash tables
  std::vector<double> token_frequency;         ///< [vocabulary], for balanced hash tables; may be empty elsewhere
  std::shared_ptr<const Recording> recording;  ///< for replay
};

/// One pass at one layer as parts see it. Tensors in the graph only where a loss or weights are asked for.
struct PassView {
  const Scores* scores = nullptr;
  const RoutingConfig* config = nullptr;  ///< with the schedules' values of the step, and evaluation's in the greedy reading
  const RouterPlace* place = nullptr;
  Mode mode = Mode::train;
  at::Tensor logits;           ///< x [T, E], clean (after jitter), temperature 1: for losses
  at::Tensor choice;           ///< h [T, E], what selection compares: x / temperature + noise
  at::Tensor gate;             ///< [T, E], what weights come from: h, but x / temperature under gumbel noise
  at::Tensor noise;            ///< [T, E] draws of perturb; undefined without noise on logits
  at::Tensor noise_deviation;  ///< [T, E] or scalar, standard deviation of gaussian noise; undefined without it
  Slots slots;                 ///< what was chosen; empty while choosing
  bool plain_top_k = false;    ///< the slots are the plain top-k of `choice`

  const TokenLayout& tokens() const { return *scores->tokens; }
  /// p [T, E] of the clean logits, computed once.
  const at::Tensor& probabilities() const;

 private:
  mutable at::Tensor probabilities_;
};

/// What all parts share: statistics over the units of a scope, a loss, state that steps move. Members are called by `LayerRouter` in the
/// order in which they stand here. Sums are over counting tokens only.
class Part {
 public:
  virtual ~Part() = default;
  /// At the beginning of a step: the config with its schedules' values.
  virtual void begin_step(const RoutingConfig& /*now*/, const BalanceConfig& /*term*/, std::int64_t /*step*/) {}

  /// True when the part has `sums`: they are then asked for in training, once for each step.
  virtual bool has_sums() const { return false; }
  /// What the pass adds to each unit's statistics: [units, C] fp64 (C is the number of experts at scope history). `unit` [T] i64.
  virtual at::Tensor sums(const PassView& /*pass*/, const at::Tensor& /*unit*/, std::int64_t /*units*/) const { return {}; }
  /// True when `observe_unit` wants every unit's logits in training.
  virtual bool observes_units() const { return false; }
  /// The choice logits of one whole unit, [T, E]. Called on one rank of those that a unit spans.
  virtual void observe_unit(const at::Tensor& /*choice*/) {}
  /// Whole units' statistics. Called on one rank of those that a unit spans.
  virtual void observe(const UnitStatistics& /*units*/) {}

  /// The name of the loss, empty when the part has none.
  virtual std::string loss_name() const { return {}; }
  /// The weighted loss of a pass, a scalar in the graph: its share of a sum over the step's tokens over their number.
  virtual at::Tensor loss(const PassView& /*pass*/, const UnitStatistics& /*units*/) const { return {}; }
  /// In place of a loss of its own: what is averaged over layers before the product.
  virtual std::vector<Assignment::Pooled> pooled(const PassView& /*pass*/, const UnitStatistics& /*units*/) const { return {}; }

  /// Collective over the gang, after each optimizer step.
  virtual void end_step(comm::Transport& /*gang*/) {}
  /// Persistent state by name, for checkpoints: fp64 tensors of finite numbers that may be written through.
  virtual std::vector<std::pair<std::string, at::Tensor>> state() { return {}; }
  /// False when it makes a token's routing depend on later tokens.
  virtual bool causal(Mode /*mode*/) const { return true; }
};

/// Which experts a token visits, and with what weights.
class Selection : public Part {
 public:
  /// True when tokens are chosen from a whole unit: `choose_from_unit` is called in place of `choose`, in this mode.
  virtual bool needs_unit(Mode /*mode*/) const { return false; }
  /// Experts of each token of a pass. `keys` [T, E]: what to compare, moved by a balancing method where there is one, else `pass.choice`.
  virtual Slots choose(const PassView& pass, const at::Tensor& keys) const = 0;
  /// [T, E] bool for the tokens of one unit; `choice` [T, E].
  virtual at::Tensor choose_from_unit(const at::Tensor& /*choice*/, const RoutingConfig& /*config*/) const { return {}; }
  /// Gate weights [N] of the pass's slots, in the graph; undefined: as the score says.
  virtual at::Tensor weights(const PassView& /*pass*/) const { return {}; }
};

/// What pushes the load towards uniform: by a loss, by persistent state that moves the keys, or by keys found anew in each unit.
class BalanceMethod : public Part {
 public:
  /// True when `unit_keys` moves the keys, from a whole unit at once.
  virtual bool chooses_from_unit() const { return false; }
  /// Keys of one unit's tokens, from their choice logits [T, E].
  virtual at::Tensor unit_keys(const at::Tensor& choice, const RoutingConfig& /*config*/) const { return choice; }
  /// Keys of a pass by persistent state; undefined: not moved.
  virtual at::Tensor keys(const PassView& /*pass*/) const { return {}; }
  /// False: weights are the chosen scores as they are, not divided by their sum.
  virtual bool normalises_weights() const { return true; }
};

/// What a part is made from.
struct StrategyContext {
  const RoutingConfig& routing;
  const BalanceConfig& term;  ///< the balancing term of a BalanceMethod; the main one for a selection
  const RouterPlace& place;
};

using MakeSelection = std::function<std::unique_ptr<Selection>(const StrategyContext&)>;
using MakeBalanceMethod = std::function<std::unique_ptr<BalanceMethod>(const StrategyContext&)>;

/// Registers a selection by name; before the first config is read (a namespace-scope constant does). Returns true.
bool register_selection(const std::string& name, MakeSelection make, std::unique_ptr<Options> options = nullptr);
template <class Config>
bool register_selection(const std::string& name, MakeSelection make) {
  return register_selection(name, std::move(make), std::make_unique<OptionsOf<Config>>());
}
/// The same for a balancing method; its options are a section of each balancing term.
bool register_balance_method(const std::string& name, MakeBalanceMethod make, std::unique_ptr<Options> options = nullptr);
template <class Config>
bool register_balance_method(const std::string& name, MakeBalanceMethod make) {
  return register_balance_method(name, std::move(make), std::make_unique<OptionsOf<Config>>());
}

/// Regularisers with a scope (regularise.scope) as parts: the entropy of a unit's mean probabilities, and the variance of its scores.
std::unique_ptr<BalanceMethod> make_batch_entropy();
std::unique_ptr<BalanceMethod> make_score_variance();

/// The part of that name, built in or registered; an `internal` error when there is none.
std::unique_ptr<Selection> make_selection(const StrategyContext& context);
std::unique_ptr<BalanceMethod> make_balance_method(const StrategyContext& context);

/// A loss F(sums over a unit, its tokens) that need not be linear, exact over units of many passes and ranks: the value is F of the whole
/// units' totals, shared out by tokens; the gradient is F's at those totals, through this pass's features.
/// `features` [T, C] in the graph; `value` maps totals [units, C] and tokens [units] to [units], differentiable.
at::Tensor loss_of_sums(const at::Tensor& features, const TokenLayout& tokens, const UnitStatistics& units,
                        const std::function<at::Tensor(const at::Tensor& totals, const at::Tensor& tokens)>& value);
/// Counting tokens of each unit, [units] fp64; `unit` [sequences] i64.
at::Tensor tokens_of_units(const TokenLayout& tokens, const at::Tensor& unit, std::int64_t units);
/// Features summed over units: [units, C] fp64; masked tokens are left out.
at::Tensor sums_of_features(const at::Tensor& features, const TokenLayout& tokens, const at::Tensor& unit, std::int64_t units);

}  // namespace moesweep::routing
