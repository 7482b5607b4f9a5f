// A strategy applied to logits from elsewhere, as one optimizer step on one rank: who goes where with what weight, losses, gradients, state.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "moesweep/core/fields.hpp"
#include "moesweep/routing/config.hpp"
#include "moesweep/store/record.hpp"

namespace moesweep::train {

/// What a decision is for; as routing::Mode, without torch.
enum class RouteMode { train, evaluate, greedy };

/// A dataset that `route` reads.
struct RouteDataset {
  std::string name;                       ///< `state/` stands for all below it
  std::optional<std::size_t> dimensions;  ///< nothing: several are taken
  std::string description;
};
/// `logits` is needed, the others are optional or needed by some strategies.
const std::vector<RouteDataset>& route_datasets();

/// Numbers of tokens, domains and experts that a file may name are below these: the largest vocabulary and number of experts of a model. They
/// are sizes of tables.
inline constexpr std::int64_t kMostTokenIds = 4194304, kMostDomains = 4194304, kMostExperts = 262144;

/// T tokens, E experts, k experts per token, N slots.
struct RouteRequest {
  routing::RoutingConfig routing;    ///< of the layer (`RoutingConfig::of_layer`)
  std::vector<store::Array> inputs;  ///< by the names of `route_datasets`; f32 logits are routed in fp32, others in fp64
  std::string source;                ///< where the inputs are from, for errors
  RouteMode mode = RouteMode::train;
  std::int64_t seed = 1;
  std::int64_t step = 0;   ///< for schedules, noise and warm-ups
  std::int64_t layer = 0;  ///< MoE layer, for noise and hash tables
  std::int64_t micro_batch_sequences = 4;
  std::int64_t domains = 0;     ///< at least so many
  std::int64_t vocabulary = 0;  ///< of hash tables; 0: the largest token + 1
};

struct Routed {
  /// Slots by token: `token, expert, weight, dropped` [N], `offsets` [T + 1]. `counts` [E], `counts_micro_batch` [M, E] (before dropping),
  /// `kept_counts` [E]. In training `losses/NAME` and `losses/total` [1], `gradients/NAME` [T, E] of each loss. `gradients/weights` where there
  /// is `upstream`. `noise_gradients/NAME` beside them where noise is learned. `state/NAME` after the step (after evaluation: as given).
  std::vector<store::Array> arrays;
  bool causal_training = false, causal_greedy = false;
  std::vector<std::string> notes;  ///< what the strategy asks for and logits alone cannot give, a sentence each
};

/// Applies the strategy. `config` errors: a combination that `routing::refusal` refuses. `data` errors name the dataset that is missing or wrong.
Routed route(const RouteRequest& request);

}  // namespace moesweep::train

namespace moesweep {
template <>
struct EnumNames<train::RouteMode> {
  static constexpr std::array names{"train", "evaluate", "greedy"};
};
}  // namespace moesweep
