// What a router sees: hidden states to Scores.
#pragma once

#include <ATen/core/Tensor.h>

#include "moesweep/routing/router.hpp"
#include "moesweep/routing/scores.hpp"

namespace moesweep::model {

/// A layer's router parameters; those that its config does not have are undefined.
struct RouterWeights {
  at::Tensor rows;         ///< [E, d], or [E, w] where logits are cosines
  at::Tensor projection;   ///< [w, d] (cosine)
  at::Tensor temperature;  ///< [1] (cosine): tau
  at::Tensor noise;        ///< [E, d] (noise.learned)
};

/// Scores of hidden states h [T, d]: rows are pooled as the granularity asks, then (training) jittered, one draw for each decision.
/// linear: h R^T. Scores lie on the host, whatever the device of h. cosine: cos(W h, R_e) * min(exp(tau), 100) (X-MoE, arXiv 2204.09179). `tokens`
/// must outlive the scores.
routing::Scores router_scores(const at::Tensor& h, const RouterWeights& weights, const routing::LayerRouter& router,
                              const routing::TokenLayout& tokens, routing::Mode mode);

}  // namespace moesweep::model
