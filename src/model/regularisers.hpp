// Regularisers that look at expert matrices and outputs.
#pragma once

#include <ATen/core/Tensor.h>

#include "experts.hpp"
#include "moesweep/comm/transport.hpp"
#include "moesweep/model/parameters.hpp"
#include "moesweep/routing/scores.hpp"

namespace moesweep::model {

/// M [n, E]: M_ij = || proxy_i Wg_j ||_2 with Wg_j the gate half of expert j's gate_up [d, 2f]. Differentiable in proxies [n, d]; gradients of
/// the matrices are added into the stack's gradient. Collective over `experts`, forward and backward: each rank's stack gives its columns, and gets
/// the gradients of all ranks' losses; the proxies' gradient on a rank is that of its own columns, to be summed over the ranks.
at::Tensor gate_activations(const at::Tensor& proxies, const Parameters::Stack& gate_up, comm::Transport& experts);

/// Router rows [E, d] times noise (ERC, arXiv 2512.23447): each element of row i by U(1 - eps_i, 1 + eps_i), with
/// eps_i = min_{j != i} ||R_i - R_j|| / (2 ||R_i||), drawn by (seed, step, layer, i, element). Differentiable in the rows, through eps too.
at::Tensor noisy_proxies(const at::Tensor& rows, std::int64_t seed, std::int64_t step, std::int64_t layer);

/// Sum over tokens and ordered pairs j != k of a token's FFN experts of || <o_j, o_k> / (<o_k, o_k> + 1e-8) o_k ||^2 over the step's tokens, this
/// pass's share (arXiv 2505.22323; the mean over tokens is ours, the paper sums). Differentiable in the output rows.
at::Tensor output_orthogonality(const ExpertOutputs& outputs, const routing::Slots& slots, std::int64_t step_tokens);

}  // namespace moesweep::model
