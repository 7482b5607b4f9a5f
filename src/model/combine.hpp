// From slots to rows of the experts' inputs, and from their output rows back to tokens.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "moesweep/routing/scores.hpp"

namespace moesweep::model {

/// Kept slots of FFN experts, sorted by expert, stable: the rows of the experts' inputs.
struct Dispatch {
  at::Tensor slot_of_row;           ///< [N] i64, slot in the assignment
  at::Tensor token_of_row;          ///< [N] i64
  at::Tensor row_of_slot;           ///< [slots] i64, -1 for one without a row
  at::Tensor offsets;               ///< [T + 1], token t's slots are [offsets[t], offsets[t + 1])
  std::vector<std::int64_t> start;  ///< [E + 1], first row of each expert
};

/// Of slots on the host; `experts` FFN experts. The tensors of the result lie on `device`.
Dispatch sort_by_expert(const routing::Slots& slots, std::int64_t experts, c10::Device device);

/// out[t] [T, d] = sum over t's kept slots of weight[slot] * rows[row_of_slot[slot]]; an undefined weight [slots] is 1. fp32 or fp64; on the CPU in a
/// loop over tokens, elsewhere by `combine_by_operators`.
at::Tensor combine(const at::Tensor& rows, const Dispatch& dispatch, const at::Tensor& weight);
at::Tensor combine_by_operators(const at::Tensor& rows, const Dispatch& dispatch, const at::Tensor& weight);

struct CombineGradients {
  at::Tensor rows;    ///< [N, d]: weight * gradient[token]
  at::Tensor weight;  ///< [slots]: <gradient[token], row>, 0 for slots without a row
};
/// Backward of `combine`; `gradient` [T, d] is contiguous.
CombineGradients combine_backward(const at::Tensor& gradient, const at::Tensor& rows, const Dispatch& dispatch, const at::Tensor& weight);
CombineGradients combine_backward_by_operators(const at::Tensor& gradient, const at::Tensor& rows, const Dispatch& dispatch,
                                               const at::Tensor& weight);

}  // namespace moesweep::model
