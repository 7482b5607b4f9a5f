// Output head and cross-entropy in one differentiable operation: one [T, V] buffer between forward and backward, a second one in backward.
#pragma once

#include <ATen/core/Tensor.h>

namespace moesweep::model {

/// -log softmax(x head^T)[target] per token: [T] nats, in x's type. Differentiable in x [T, d] and head [V, d]. The products run in
/// `compute`, the softmax in x's type.
at::Tensor head_loss(const at::Tensor& x, const at::Tensor& head, const at::Tensor& targets, at::ScalarType compute);

}  // namespace moesweep::model
