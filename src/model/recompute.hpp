// Activation recomputation: a stretch of the forward pass that keeps its inputs alone and runs again in backward.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace moesweep::model {

/// What runs twice: differentiable outputs of differentiable inputs, and of parameters whose gradients it adds to. Both runs must be the same.
using Stretch = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>;

/// `stretch(inputs)`, first without recording anything, then once more in backward. The inputs must be defined, and one of them must need a gradient.
/// What the stretch refers to must live until then.
std::vector<at::Tensor> recomputed(Stretch stretch, const std::vector<at::Tensor>& inputs);

}  // namespace moesweep::model
