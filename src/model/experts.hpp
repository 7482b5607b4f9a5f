// The routed experts of one layer: dispatch, grouped SwiGLU, combine, as one differentiable operation.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

#include "expert_exchange.hpp"
#include "moesweep/model/parameters.hpp"
#include "moesweep/routing/scores.hpp"

namespace moesweep::model {

struct ExpertOutputs {
  at::Tensor combined;     ///< y [T, d]
  at::Tensor rows;         ///< [N, d], each kept slot's expert output, without its weight
  at::Tensor row_of_slot;  ///< [slots] i64, -1 for slots that are dropped or not an FFN expert's
};

/// y[t] = sum over t's kept slots of weight * expert(x[t]); slots of experts behind the stacks' last are left out. Both `combined` and `rows` are
/// differentiable in x [T, d] and in the assignment's weights; gradients of the experts' matrices are added into the stacks' gradients.
/// `compute` is the type of the matrix products.
/// expert(h) = (silu(h Wg) * (h Wu)) W2 with Wg, Wu the halves of gate_up [d, 2f] and W2 = down [f, d].
///
/// The stacks are this rank's share of the experts; the ranks of `experts` hold them all, in the order of their numbers. Collective over these ranks,
/// forward and backward, whether they have tokens or not: each gets the rows of its own tokens, and adds what all tokens give to its experts'
/// gradients. `meanwhile` runs while the first rows travel, without gradients being recorded. `experts` and `work` must outlive the graph.
ExpertOutputs expert_outputs(const at::Tensor& x, const routing::Assignment& assignment, const Parameters::Stack& gate_up,
                             const Parameters::Stack& down, at::ScalarType compute, comm::Transport& experts, ExpertWork& work,
                             const std::function<void()>& meanwhile = {});

}  // namespace moesweep::model
