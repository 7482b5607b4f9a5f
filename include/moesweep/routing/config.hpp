// How tokens are routed and balanced; no torch here.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "moesweep/core/fields.hpp"

namespace moesweep::routing {

enum class Score { softmax, softmax_selected, sigmoid };
enum class Select { top_k, reference, random };
enum class BalanceMethod { none, aux_loss, expert_bias };
enum class ScopeKind { sequence, micro_batch, global_batch };
enum class BiasRule { sign, proportional };
enum class ReferenceWeights { gate, uniform };

/// One balancing term: a method over a scope.
struct BalanceConfig {
  BalanceMethod method = BalanceMethod::none;
  ScopeKind scope = ScopeKind::global_batch;
  double weight = 0.01;
  double rate = 1e-3;
  BiasRule rule = BiasRule::sign;
  bool mean_centred = false;

  void list(FieldList& fields);
};

/// The main balancing term with the further ones that act beside it.
struct MainBalanceConfig : BalanceConfig {
  std::vector<BalanceConfig> also;

  void list(FieldList& fields);
};

struct RoutingConfig {
  Score score = Score::softmax;
  Select select = Select::top_k;
  std::int64_t top_k = 4;
  double weight_scale = 1.0;
  ReferenceWeights reference_weights = ReferenceWeights::gate;
  double z_loss_weight = 0.0;
  MainBalanceConfig balance;

  void list(FieldList& fields);
};

/// Why the combination makes no sense, in one sentence, with the dotted keys concerned; empty when it does make sense.
/// `experts` and `domains` are what the model and the data have.
std::string refusal(const RoutingConfig& config, std::int64_t experts, std::int64_t domains);

}  // namespace moesweep::routing

namespace moesweep {
template <>
struct EnumNames<routing::Score> {
  static constexpr std::array names{"softmax", "softmax_selected", "sigmoid"};
};
template <>
struct EnumNames<routing::Select> {
  static constexpr std::array names{"top_k", "reference", "random"};
};
template <>
struct EnumNames<routing::BalanceMethod> {
  static constexpr std::array names{"none", "aux_loss", "expert_bias"};
};
template <>
struct EnumNames<routing::ScopeKind> {
  static constexpr std::array names{"sequence", "micro_batch", "global_batch"};
};
template <>
struct EnumNames<routing::BiasRule> {
  static constexpr std::array names{"sign", "proportional"};
};
template <>
struct EnumNames<routing::ReferenceWeights> {
  static constexpr std::array names{"gate", "uniform"};
};
}  // namespace moesweep
