// See combine.hpp.
#include "combine.hpp"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>

namespace moesweep::model {

namespace {

template <class Real>
Real dot(const Real* __restrict a, const Real* __restrict b, std::int64_t count) {
  Real sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

Dispatch sort_by_expert(const routing::Slots& slots, std::int64_t experts, c10::Device device) {
  const at::Tensor ids = slots.expert.contiguous(), tokens = slots.token.contiguous();
  const std::int64_t count = ids.numel();
  const auto* id = ids.const_data_ptr<std::int64_t>();
  const auto* token = tokens.const_data_ptr<std::int64_t>();
  const at::Tensor flags = slots.dropped.defined() ? slots.dropped.contiguous() : at::Tensor();
  const bool* dropped = flags.defined() ? flags.const_data_ptr<bool>() : nullptr;
  const auto has_row = [&](std::int64_t s) { return id[s] < experts && (dropped == nullptr || !dropped[s]); };
  Dispatch dispatch;
  dispatch.start.assign(static_cast<std::size_t>(experts) + 1, 0);
  for (std::int64_t s = 0; s < count; ++s)
    if (has_row(s)) ++dispatch.start[static_cast<std::size_t>(id[s]) + 1];
  for (std::size_t e = 0; e < static_cast<std::size_t>(experts); ++e) dispatch.start[e + 1] += dispatch.start[e];
  const std::int64_t rows = dispatch.start.back();
  dispatch.slot_of_row = at::empty({rows}, at::kLong);
  dispatch.token_of_row = at::empty({rows}, at::kLong);
  dispatch.row_of_slot = at::empty({count}, at::kLong);
  auto* slot_of_row = dispatch.slot_of_row.mutable_data_ptr<std::int64_t>();
  auto* token_of_row = dispatch.token_of_row.mutable_data_ptr<std::int64_t>();
  auto* row_of_slot = dispatch.row_of_slot.mutable_data_ptr<std::int64_t>();
  std::vector<std::int64_t> next(dispatch.start.begin(), dispatch.start.end() - 1);
  for (std::int64_t s = 0; s < count; ++s) {
    if (!has_row(s)) {
      row_of_slot[s] = -1;
      continue;
    }
    const std::int64_t row = next[static_cast<std::size_t>(id[s])]++;
    slot_of_row[row] = s;
    token_of_row[row] = token[s];
    row_of_slot[s] = row;
  }
  dispatch.offsets = slots.offsets.contiguous();
  for (at::Tensor* index : {&dispatch.slot_of_row, &dispatch.token_of_row, &dispatch.row_of_slot, &dispatch.offsets}) *index = index->to(device);
  return dispatch;
}

at::Tensor combine(const at::Tensor& rows, const Dispatch& dispatch, const at::Tensor& weight) {
  if (!rows.is_cpu()) return combine_by_operators(rows, dispatch, weight);
  const at::Tensor &row_of_slot = dispatch.row_of_slot, &offsets = dispatch.offsets;
  const std::int64_t tokens = offsets.numel() - 1, width = rows.size(1);
  at::Tensor out = at::empty({tokens, width}, rows.options());
  AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), "combine", [&] {
    const auto* from = rows.const_data_ptr<scalar_t>();
    const auto* place = row_of_slot.const_data_ptr<std::int64_t>();
    const auto* begin_of = offsets.const_data_ptr<std::int64_t>();
    const scalar_t* w = weight.defined() ? weight.const_data_ptr<scalar_t>() : nullptr;
    auto* to = out.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, tokens, 256, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        scalar_t* __restrict sum = to + t * width;
        std::fill(sum, sum + width, scalar_t(0));
        for (std::int64_t s = begin_of[t]; s < begin_of[t + 1]; ++s) {
          if (place[s] < 0) continue;
          const scalar_t* __restrict row = from + place[s] * width;
          const scalar_t factor = w != nullptr ? w[s] : scalar_t(1);
          for (std::int64_t i = 0; i < width; ++i) sum[i] += factor * row[i];
        }
      }
    });
  });
  return out;
}

at::Tensor combine_by_operators(const at::Tensor& rows, const Dispatch& dispatch, const at::Tensor& weight) {
  const at::Tensor weighted = weight.defined() ? rows * weight.index_select(0, dispatch.slot_of_row).unsqueeze(1) : rows;
  return at::zeros({dispatch.offsets.numel() - 1, rows.size(1)}, rows.options()).index_add_(0, dispatch.token_of_row, weighted);
}

CombineGradients combine_backward(const at::Tensor& gradient, const at::Tensor& rows, const Dispatch& dispatch, const at::Tensor& weight) {
  if (!rows.is_cpu()) return combine_backward_by_operators(gradient, rows, dispatch, weight);
  const std::int64_t count = rows.size(0), width = rows.size(1);
  const CombineGradients gradients{at::empty_like(rows), at::zeros_like(weight)};
  AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), "combine_backward", [&] {
    const auto* g = gradient.const_data_ptr<scalar_t>();
    const auto* y = rows.const_data_ptr<scalar_t>();
    const auto* w = weight.const_data_ptr<scalar_t>();
    const auto* slot = dispatch.slot_of_row.const_data_ptr<std::int64_t>();
    const auto* token = dispatch.token_of_row.const_data_ptr<std::int64_t>();
    auto* gy = gradients.rows.mutable_data_ptr<scalar_t>();
    auto* gw = gradients.weight.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, count, 256, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        const scalar_t* __restrict from = g + token[r] * width;
        const scalar_t* __restrict row = y + r * width;
        scalar_t* __restrict out = gy + r * width;
        const scalar_t factor = w[slot[r]];
        for (std::int64_t i = 0; i < width; ++i) out[i] = factor * from[i];
        gw[slot[r]] = dot(from, row, width);
      }
    });
  });
  return gradients;
}

CombineGradients combine_backward_by_operators(const at::Tensor& gradient, const at::Tensor& rows, const Dispatch& dispatch,
                                               const at::Tensor& weight) {
  const at::Tensor from = gradient.index_select(0, dispatch.token_of_row);
  return {from * weight.index_select(0, dispatch.slot_of_row).unsqueeze(1),
          at::zeros_like(weight).index_copy_(0, dispatch.slot_of_row, (from * rows).sum(1))};
}

}  // namespace moesweep::model
