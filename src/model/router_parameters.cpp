// See router_parameters.hpp.
#include "router_parameters.hpp"

#include <cmath>

namespace moesweep::model {

std::int64_t router_owner(const routing::RoutingConfig& routing, std::int64_t moe_layer) {
  switch (routing.depth) {
    case routing::Depth::per_layer: return moe_layer;
    case routing::Depth::shared_decision: return 0;
    case routing::Depth::shared_weights: return routing.depth_block == 0 ? 0 : moe_layer - moe_layer % routing.depth_block;
  }
  return moe_layer;
}

std::vector<RouterParameter> router_parameters(const ModelConfig& model, const routing::RoutingConfig& routing, std::int64_t moe_layer) {
  if (router_owner(routing, moe_layer) != moe_layer) return {};
  const routing::RoutingConfig own = routing.of_layer(moe_layer);
  const std::int64_t experts = model.experts + own.extra_experts.routed();
  // Noisy top-k starts with equal logits and equal noise (Shazeer 2017); a cosine has no direction at 0.
  const bool cosine = own.logits == routing::Logits::cosine;
  const double deviation = own.noise.learned && !cosine ? 0.0 : model.router_init_deviation;
  std::vector<RouterParameter> parameters;
  if (cosine) {
    parameters.push_back({"router_projection", {own.cosine_width, model.width}, 1.0 / std::sqrt(static_cast<double>(model.width))});
    parameters.push_back({"router_temperature", {1}, 0.0, std::log(2.0)});
  }
  parameters.push_back({"router", {experts, cosine ? own.cosine_width : model.width}, deviation});
  if (own.noise.learned) parameters.push_back({"router_noise", {experts, model.width}});
  return parameters;
}

}  // namespace moesweep::model
