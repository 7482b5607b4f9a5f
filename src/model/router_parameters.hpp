// Which parameters turn a layer's hidden states into logits; no torch here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "moesweep/model/config.hpp"
#include "moesweep/routing/config.hpp"

namespace moesweep::model {

struct RouterParameter {
  std::string name;  ///< behind `layers.N.`
  std::vector<std::int64_t> shape;
  double deviation = 0.0;  ///< initial standard deviation
  double mean = 0.0;
};

/// The MoE layer whose router matrix a MoE layer uses: its own, or the first one of its block (depth shared_weights, shared_decision).
std::int64_t router_owner(const routing::RoutingConfig& routing, std::int64_t moe_layer);

/// Router parameters that a MoE layer owns; none where it uses another one's.
std::vector<RouterParameter> router_parameters(const ModelConfig& model, const routing::RoutingConfig& routing, std::int64_t moe_layer);

}  // namespace moesweep::model
