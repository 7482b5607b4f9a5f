// How tokens are routed and balanced; no torch here.
//
// A strategy is composed of parts that are chosen independently: logits -> perturb -> score -> select -> cap -> weigh, and beside it
// balancing terms over scopes. `refusal` names the combinations that make no sense.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "moesweep/core/fields.hpp"
#include "moesweep/routing/options.hpp"

namespace moesweep::routing {

enum class Granularity { token, sequence, batch };
enum class Pooling { mean, prefix, domain };
enum class Depth { per_layer, shared_decision, shared_weights };
enum class Logits { linear, cosine };
enum class Score { softmax, softmax_selected, sigmoid, sqrt_softplus, relu };
enum class Perturb { none, gaussian, gumbel, jitter };
enum class GroupScore { top2_sum, max, megatron };
enum class HashTable { random, balanced };
enum class Learning { learned, frozen, resampled, imported };
enum class ScopeKind { sequence, micro_batch, group, global_batch, running, history };
enum class BiasRule { sign, proportional };
enum class AuxConvention { moesweep, olmo, transformers, gshard, megablocks };
enum class ReferenceWeights { gate, uniform };
enum class CapacityPolicy { probability, position, gshard, random };
enum class ScheduleKind { constant, linear, cosine, step };

/// One balancing term: a method over a scope.
struct BalanceConfig {
  std::string method = "none";  ///< a built-in method's name, or a registered one's (strategy.hpp)
  ScopeKind scope = ScopeKind::global_batch;
  double weight = 0.01;
  double rate = 1e-3;
  BiasRule rule = BiasRule::sign;
  bool mean_centred = false;
  AuxConvention convention = AuxConvention::moesweep;
  bool all_probabilities = false;
  double momentum = 0.5;
  double sharpness = 2.0;
  std::optional<double> ffn_share;
  std::int64_t iterations = 100;
  double tolerance = 1e-4;
  double decay = 0.0;
  double low = 0.0;
  double high = 1.0;
  double history_decay = 0.9;
  OptionSets options = OptionSets::of(StrategyKind::balance);

  void list(FieldList& fields);
};

/// The main balancing term with the further ones that act beside it.
struct MainBalanceConfig : BalanceConfig {
  std::vector<BalanceConfig> also;

  void list(FieldList& fields);
};

/// One decision for many tokens: what stands for them.
struct PoolConfig {
  Pooling by = Pooling::mean;
  std::int64_t prefix_tokens = 8;

  void list(FieldList& fields);
};

struct NoiseConfig {
  double scale = 1.0;
  bool learned = false;
  double jitter = 1e-2;

  void list(FieldList& fields);
};

struct GroupConfig {
  std::int64_t count = 8;
  std::int64_t keep = 4;
  GroupScore score = GroupScore::top2_sum;

  void list(FieldList& fields);
};

struct ThresholdConfig {
  double decay = 0.999;
  std::int64_t warmup_steps = 20;

  void list(FieldList& fields);
};

struct ReluConfig {
  double penalty = 1e-8;
  double penalty_factor = 1.2;

  void list(FieldList& fields);
};

struct CapacityConfig {
  std::optional<double> factor;
  CapacityPolicy policy = CapacityPolicy::probability;
  ScopeKind scope = ScopeKind::micro_batch;

  void list(FieldList& fields);
};

struct RegulariseConfig {
  double batch_entropy = 0.0;
  double token_entropy = 0.0;
  ScopeKind scope = ScopeKind::global_batch;
  double router_orthogonality = 0.0;
  double output_orthogonality = 0.0;
  double score_variance = 0.0;
  double expert_router_coupling = 0.0;
  double coupling_margin = 1.0;

  void list(FieldList& fields);
};

/// Experts of other kinds that a strategy brings along: behind the model's experts in number, in this order.
struct ExtraExperts {
  std::int64_t zero = 0;
  std::int64_t copy = 0;
  std::int64_t constant = 0;
  std::int64_t shared = 0;

  /// Those that the router chooses among; shared ones are visited by all.
  std::int64_t routed() const { return zero + copy + constant; }
  void list(FieldList& fields);
};

/// A value that changes over the steps: `key` names a number of the routing section.
struct ScheduleConfig {
  std::string key;
  ScheduleKind kind = ScheduleKind::linear;
  double start = 0.0;
  double end = 0.0;
  std::int64_t from_step = 0;
  std::int64_t to_step = 0;

  void list(FieldList& fields);
};

/// What evaluation's greedy reading does otherwise than training; absent: the same.
struct EvaluationRoutingConfig {
  std::string select = "same";
  std::optional<std::int64_t> top_k;
  std::optional<double> temperature;
  std::optional<double> capacity_factor;
  bool balancing = false;

  void list(FieldList& fields);
};

struct RoutingConfig {
  Granularity granularity = Granularity::token;
  PoolConfig pool;
  Depth depth = Depth::per_layer;
  std::int64_t depth_block = 0;
  Logits logits = Logits::linear;
  std::int64_t cosine_width = 256;
  Score score = Score::softmax;
  Perturb perturb = Perturb::none;
  double temperature = 1.0;
  NoiseConfig noise;
  std::string select = "top_k";  ///< a built-in selection's name, or a registered one's (strategy.hpp)
  std::int64_t top_k = 4;
  double top_p = 0.4;
  GroupConfig groups;
  ThresholdConfig threshold;
  ReluConfig relu;
  HashTable hash_table = HashTable::random;
  ReferenceWeights hash_weights = ReferenceWeights::uniform;
  double weight_scale = 1.0;
  ReferenceWeights reference_weights = ReferenceWeights::gate;
  std::string replay_from;
  bool record = false;
  Learning learning = Learning::learned;
  std::string import_from;
  double z_loss_weight = 0.0;
  MainBalanceConfig balance;
  CapacityConfig capacity;
  RegulariseConfig regularise;
  ExtraExperts extra_experts;
  std::vector<ScheduleConfig> schedules;
  EvaluationRoutingConfig evaluation;
  /// Layer ranges `first-last` (MoE layers from 0, both included, or one number) with a routing of their own.
  std::map<std::string, RoutingConfig> layers;
  OptionSets options = OptionSets::of(StrategyKind::selection);

  void list(FieldList& fields);

  /// The strategy of one MoE layer: that of the range which holds it, else this one without ranges.
  RoutingConfig of_layer(std::int64_t layer) const;
  /// This strategy with its schedules' values at a step in place; a schedule beyond the run's end is simply not finished.
  RoutingConfig at_step(std::int64_t step) const;
  /// What evaluation's greedy reading uses: `evaluation` over this one.
  RoutingConfig in_evaluation() const;
  /// Whether slots are dropped at some step.
  bool has_capacity() const;
  /// Every balancing term that is not `none`, the main one first.
  std::vector<BalanceConfig> terms() const;
};

/// A range `3` or `0-2` of `RoutingConfig::layers`; nothing when the text is none.
struct LayerRange {
  std::int64_t first = 0, last = 0;
};
std::optional<LayerRange> layer_range(const std::string& text);

/// The value of a schedule at a step (from 0): `start` up to from_step, `end` from to_step on, between them along the kind's curve;
/// `constant` is always start, `step` jumps to end at from_step.
double scheduled_value(const ScheduleConfig& schedule, std::int64_t step);

/// What a strategy is used with.
struct RoutedModel {
  std::int64_t experts = 0;  ///< FFN experts
  std::int64_t domains = 0;
  std::int64_t moe_layers = 1;
  std::int64_t width = 0;  ///< of the router's input; 0 where it is unknown (logits from a file)
  // How a step is cut, for methods that need whole units.
  std::int64_t sequence_length = 0, micro_batch_sequences = 0, batch_sequences = 0;
};

/// Why the combination makes no sense, in one sentence, with the dotted keys concerned; empty when it does make sense.
std::string refusal(const RoutingConfig& config, const RoutedModel& model);

/// One cell of the table of methods, scopes and granularities: works (empty reason), or is refused with a reason.
struct Combination {
  std::string method;  ///< a balancing method, or a selection that has a unit
  ScopeKind scope = ScopeKind::global_batch;
  Granularity granularity = Granularity::token;
  std::string reason;
};
/// Every built-in balancing method (and expert_choice, threshold and relu, whose scope is that of their own unit) at every scope and granularity,
/// as `refusal` judges them.
std::vector<Combination> combinations();
/// The same as Markdown tables, for configs/README.md.
std::string combinations_markdown();

/// True where routing with this strategy lets a token's logits depend on later tokens: in training at that step, or in the greedy reading.
bool sees_future(const RoutingConfig& config, std::int64_t step);
bool sees_future_greedily(const RoutingConfig& config);

}  // namespace moesweep::routing

namespace moesweep {
template <>
struct EnumNames<routing::Granularity> {
  static constexpr std::array names{"token", "sequence", "batch"};
};
template <>
struct EnumNames<routing::Pooling> {
  static constexpr std::array names{"mean", "prefix", "domain"};
};
template <>
struct EnumNames<routing::Depth> {
  static constexpr std::array names{"per_layer", "shared_decision", "shared_weights"};
};
template <>
struct EnumNames<routing::Logits> {
  static constexpr std::array names{"linear", "cosine"};
};
template <>
struct EnumNames<routing::Score> {
  static constexpr std::array names{"softmax", "softmax_selected", "sigmoid", "sqrt_softplus", "relu"};
};
template <>
struct EnumNames<routing::Perturb> {
  static constexpr std::array names{"none", "gaussian", "gumbel", "jitter"};
};
template <>
struct EnumNames<routing::GroupScore> {
  static constexpr std::array names{"top2_sum", "max", "megatron"};
};
template <>
struct EnumNames<routing::HashTable> {
  static constexpr std::array names{"random", "balanced"};
};
template <>
struct EnumNames<routing::Learning> {
  static constexpr std::array names{"learned", "frozen", "resampled", "imported"};
};
template <>
struct EnumNames<routing::ScopeKind> {
  static constexpr std::array names{"sequence", "micro_batch", "group", "global_batch", "running", "history"};
};
template <>
struct EnumNames<routing::BiasRule> {
  static constexpr std::array names{"sign", "proportional"};
};
template <>
struct EnumNames<routing::AuxConvention> {
  static constexpr std::array names{"moesweep", "olmo", "transformers", "gshard", "megablocks"};
};
template <>
struct EnumNames<routing::ReferenceWeights> {
  static constexpr std::array names{"gate", "uniform"};
};
template <>
struct EnumNames<routing::CapacityPolicy> {
  static constexpr std::array names{"probability", "position", "gshard", "random"};
};
template <>
struct EnumNames<routing::ScheduleKind> {
  static constexpr std::array names{"constant", "linear", "cosine", "step"};
};
}  // namespace moesweep
