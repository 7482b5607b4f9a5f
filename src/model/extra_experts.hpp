// Routed experts without matrices: zero, copy and constant ones (MoE++, arXiv 2410.07348), numbered behind the FFN experts in this order.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "moesweep/routing/config.hpp"
#include "moesweep/routing/scores.hpp"

namespace moesweep::model {

/// A constant expert gives a1 x + a2 vector with [a1, a2] = softmax(mix x).
struct ConstantExpert {
  at::Tensor mix;     ///< [2, d]
  at::Tensor vector;  ///< [d]
};

/// Sum over each token's kept slots of these experts of weight * expert(x), [T, d]; `first` is the number of the first one. Differentiable in
/// x [T, d], the weights and the constants.
at::Tensor extra_experts(const at::Tensor& x, const routing::Assignment& assignment, std::int64_t first, const routing::ExtraExperts& extra,
                         const std::vector<ConstantExpert>& constants);

}  // namespace moesweep::model
