// See router_inputs.hpp.
#include "router_inputs.hpp"

#include <ATen/ATen.h>

namespace moesweep::model {

namespace {

constexpr double kLargestCosineScale = 100;

/// Rows over their norms; rows of zeros stay zeros.
at::Tensor directions(const at::Tensor& rows) { return rows / at::linalg_vector_norm(rows, 2, {-1}, /*keepdim=*/true).clamp_min(1e-12); }

}  // namespace

routing::Scores router_scores(const at::Tensor& h, const RouterWeights& weights, const routing::LayerRouter& router,
                              const routing::TokenLayout& tokens, routing::Mode mode) {
  const routing::RoutingConfig& now = router.now();
  const std::int64_t layer = router.place().layer;
  // Decisions are made on the host. Logits of single tokens are made where the hidden states are; what pools or jitters them goes to the host first.
  const bool jitters = mode == routing::Mode::train && now.perturb == routing::Perturb::jitter;
  const c10::Device device = now.granularity == routing::Granularity::token && !jitters ? h.device() : c10::Device(c10::kCPU);
  const auto here = [device](const at::Tensor& weight) { return weight.to(device); };
  at::Tensor input = routing::pool_rows(h.to(device), tokens, now.granularity, now.pool);
  if (jitters) {
    const routing::TokenLayout places = routing::decision_layout(tokens, now.granularity, now.pool);
    input = input * routing::jitter_factors(places, layer, input.size(1), now.noise.jitter, input.scalar_type());
  }
  routing::Scores scores;
  scores.layer = layer;
  scores.tokens = &tokens;
  if (now.logits == routing::Logits::cosine) {
    const at::Tensor cosine = at::matmul(directions(at::matmul(input, here(weights.projection).t())), directions(here(weights.rows)).t());
    scores.logits = cosine * here(weights.temperature).exp().clamp_max(kLargestCosineScale);
  } else {
    scores.logits = at::matmul(input, here(weights.rows).t());
  }
  if (mode == routing::Mode::train && now.noise.learned) scores.noise_logits = at::matmul(input, here(weights.noise).t());
  scores.logits = scores.logits.to(at::kCPU);
  if (scores.noise_logits.defined()) scores.noise_logits = scores.noise_logits.to(at::kCPU);
  return scores;
}

}  // namespace moesweep::model
