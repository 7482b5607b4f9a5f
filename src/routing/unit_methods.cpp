// Methods that choose from a whole unit: Sinkhorn, the solved bias, quantiles. See include/moesweep/routing/parts.hpp.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "kernels.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/routing/parts.hpp"

namespace moesweep::routing {

namespace {

/// Rows go in chunks of this many, whose sums are added in order: no number depends on the threads.
constexpr std::int64_t kChunkRows = 256;
constexpr double kSinkhornEpsilon = 1e-8;

/// `work(first row, last row, chunk)` for every chunk of rows.
template <class Work>
void for_each_chunk(std::int64_t rows, const Work& work) {
  const std::int64_t chunks = (rows + kChunkRows - 1) / kChunkRows;
  at::parallel_for(0, chunks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t chunk = begin; chunk < end; ++chunk) work(chunk * kChunkRows, std::min(rows, (chunk + 1) * kChunkRows), chunk);
  });
}

/// A row of numbers for each chunk, and their sum over chunks.
template <class Number>
struct ChunkSums {
  ChunkSums(std::int64_t rows, std::int64_t width)
      : width_(static_cast<std::size_t>(width)), values_(static_cast<std::size_t>((rows + kChunkRows - 1) / kChunkRows) * width_) {}
  Number* of(std::int64_t chunk) { return values_.data() + static_cast<std::size_t>(chunk) * width_; }
  void clear() { std::fill(values_.begin(), values_.end(), Number{0}); }
  Number sum(std::size_t column) const {
    Number total{0};
    for (std::size_t i = column; i < values_.size(); i += width_) total += values_[i];
    return total;
  }

 private:
  std::size_t width_;
  std::vector<Number> values_;
};

template <class Real>
MOESWEEP_INLINE void exponentials(const Real* x, std::int64_t experts, std::int64_t first, std::int64_t last, Real* c) {
  for (std::int64_t t = first; t < last; ++t) {
    const Real* row = x + t * experts;
    const Real most = row_maximum(row, experts);
#pragma omp simd
    for (std::int64_t e = 0; e < experts; ++e) c[t * experts + e] = exp_below(row[e] - most);
  }
}

/// Half an iteration each way: d0 of the rows from d1, and what they add to the sums of the columns.
template <class Real>
MOESWEEP_INLINE void scale_rows(const Real* c, std::int64_t experts, std::int64_t first, std::int64_t last, const Real* d1, Real row_share, Real* d0,
                                Real* sums) {
  for (std::int64_t t = first; t < last; ++t) {
    const Real* row = c + t * experts;
    Real inner = 0;
#pragma omp simd reduction(+ : inner)
    for (std::int64_t e = 0; e < experts; ++e) inner += row[e] * d1[e];
    const Real mine = row_share / (inner + static_cast<Real>(kSinkhornEpsilon));
    d0[t] = mine;
#pragma omp simd
    for (std::int64_t e = 0; e < experts; ++e) sums[e] += mine * row[e];
  }
}

template <class Real>
SinkhornResult sinkhorn(const at::Tensor& logits, std::int64_t most_iterations, double tolerance) {
  const std::int64_t tokens = logits.size(0), experts = logits.size(1);
  SinkhornResult result{at::empty_like(logits), 0, false};
  const auto* x = logits.const_data_ptr<Real>();
  auto* c = result.keys.mutable_data_ptr<Real>();  // holds C until the end
  for_each_chunk(tokens, [&](std::int64_t first, std::int64_t last, std::int64_t) {
    with_wide_vectors<&exponentials<Real>>(experts, x, experts, first, last, c);
  });
  std::vector<Real> d0(static_cast<std::size_t>(tokens), Real(1)), d1(static_cast<std::size_t>(experts), Real(1));
  ChunkSums<Real> columns(tokens, experts);
  const Real row_share = Real(1) / static_cast<Real>(tokens), column_share = Real(1) / static_cast<Real>(experts);
  while (result.iterations < most_iterations && !result.converged) {
    columns.clear();
    for_each_chunk(tokens, [&](std::int64_t first, std::int64_t last, std::int64_t chunk) {
      with_wide_vectors<&scale_rows<Real>>(experts, static_cast<const Real*>(c), experts, first, last, static_cast<const Real*>(d1.data()), row_share,
                                           d0.data(), columns.of(chunk));
    });
    double change = 0;
    for (std::size_t e = 0; e < d1.size(); ++e) {
      const Real next = column_share / (columns.sum(e) + static_cast<Real>(kSinkhornEpsilon));
      change += std::abs(static_cast<double>(next) - static_cast<double>(d1[e]));
      d1[e] = next;
    }
    ++result.iterations;
    result.converged = change / static_cast<double>(experts) <= tolerance;
  }
  for_each_chunk(tokens, [&](std::int64_t first, std::int64_t last, std::int64_t) {
    const Real* scale = d1.data();
    for (std::int64_t t = first; t < last; ++t) {
      const Real mine = d0[static_cast<std::size_t>(t)];
#pragma omp simd
      for (std::int64_t e = 0; e < experts; ++e) c[t * experts + e] *= mine * scale[e];
    }
  });
  return result;
}

/// Population standard deviation of all logits.
template <class Real>
double deviation(const at::Tensor& logits) {
  const std::int64_t tokens = logits.size(0), experts = logits.size(1);
  const auto* x = logits.const_data_ptr<Real>();
  const auto count = static_cast<double>(tokens * experts);
  const auto mean_of = [&](double centre, bool square) {
    ChunkSums<double> sums(tokens, 1);
    for_each_chunk(tokens, [&](std::int64_t first, std::int64_t last, std::int64_t chunk) {
      double sum = 0;
      for (std::int64_t i = first * experts; i < last * experts; ++i) {
        const double gap = static_cast<double>(x[i]) - centre;
        sum += square ? gap * gap : gap;
      }
      *sums.of(chunk) = sum;
    });
    return sums.sum(0) / count;
  };
  return std::sqrt(mean_of(mean_of(0, false), true));
}

/// What the choice among a row's moved logits works in.
template <class Real>
struct RowBuffer {
  RowBuffer(std::int64_t experts, std::int64_t k)
      : keys(static_cast<std::size_t>(experts)), chosen(static_cast<std::size_t>(k)), candidates(static_cast<std::size_t>(experts)) {}
  std::vector<Real> keys;
  std::vector<std::int64_t> chosen;
  std::vector<std::int32_t> candidates;
};

template <class Real>
MOESWEEP_INLINE void top_k_moved(const Real* row, const Real* shift, std::int64_t experts, std::int64_t k, Real* keys, std::int64_t* chosen,
                                 std::int32_t* candidates) {
#pragma omp simd
  for (std::int64_t e = 0; e < experts; ++e) keys[e] = row[e] + shift[e];
  top_k_row(keys, experts, k, chosen, candidates);
}

template <class Real>
MOESWEEP_INLINE void count_moved(const Real* x, const Real* shift, std::int64_t experts, std::int64_t k, std::int64_t first, std::int64_t last,
                                 RowBuffer<Real>* buffer, std::int64_t* counts) {
  std::int64_t* chosen = buffer->chosen.data();
  for (std::int64_t t = first; t < last; ++t) {
    top_k_moved(x + t * experts, shift, experts, k, buffer->keys.data(), chosen, buffer->candidates.data());
    for (std::int64_t i = 0; i < k; ++i) ++counts[chosen[i]];
  }
}

/// logits less the n-th largest of the row's moved logits.
template <class Real>
MOESWEEP_INLINE void less_threshold(const Real* x, const Real* shift, std::int64_t experts, std::int64_t n, std::int64_t first, std::int64_t last,
                                    RowBuffer<Real>* buffer, Real* out) {
  for (std::int64_t t = first; t < last; ++t) {
    const Real* row = x + t * experts;
    top_k_moved(row, shift, experts, n, buffer->keys.data(), buffer->chosen.data(), buffer->candidates.data());
    const Real alpha = buffer->keys.data()[buffer->chosen.data()[n - 1]];
#pragma omp simd
    for (std::int64_t e = 0; e < experts; ++e) out[t * experts + e] = row[e] - alpha;
  }
}

/// How often each expert is among the k best of logits + bias.
template <class Real>
std::vector<std::int64_t> biased_counts(const at::Tensor& logits, const std::vector<double>& bias, std::int64_t k) {
  const std::int64_t tokens = logits.size(0), experts = logits.size(1);
  const auto* x = logits.const_data_ptr<Real>();
  const std::vector<Real> shift(bias.begin(), bias.end());
  ChunkSums<std::int64_t> counts(tokens, experts);
  for_each_chunk(tokens, [&](std::int64_t first, std::int64_t last, std::int64_t chunk) {
    RowBuffer<Real> buffer(experts, k);
    with_wide_vectors<&count_moved<Real>>(experts, x, shift.data(), experts, k, first, last, &buffer, counts.of(chunk));
  });
  std::vector<std::int64_t> total;
  for (std::size_t e = 0; e < bias.size(); ++e) total.push_back(counts.sum(e));
  return total;
}

/// logits - alpha, alpha[t] the n-th largest of the row's logits - beta.
template <class Real>
at::Tensor above_threshold(const at::Tensor& logits, const at::Tensor& beta, std::int64_t n) {
  const std::int64_t tokens = logits.size(0), experts = logits.size(1);
  const auto* x = logits.const_data_ptr<Real>();
  const auto* bias = beta.const_data_ptr<double>();
  std::vector<Real> shift;
  for (std::int64_t e = 0; e < experts; ++e) shift.push_back(static_cast<Real>(-bias[e]));
  at::Tensor moved = at::empty_like(logits);
  auto* out = moved.mutable_data_ptr<Real>();
  for_each_chunk(tokens, [&](std::int64_t first, std::int64_t last, std::int64_t) {
    RowBuffer<Real> buffer(experts, n);
    with_wide_vectors<&less_threshold<Real>>(experts, x, static_cast<const Real*>(shift.data()), experts, n, first, last, &buffer, out);
  });
  return moved;
}

}  // namespace

SinkhornResult sinkhorn_unit(const at::Tensor& logits, std::int64_t iterations, double tolerance) {
  const at::Tensor rows = logits.detach().to(at::kCPU).contiguous();
  if (rows.numel() == 0) return {rows.clone(), 0, true};
  SinkhornResult result;
  AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), "sinkhorn", [&] { result = sinkhorn<scalar_t>(rows, iterations, tolerance); });
  return result;
}

at::Tensor solved_bias_unit(const at::Tensor& logits, std::int64_t k) {
  constexpr int kSteps = 10;
  const at::Tensor rows = logits.detach().to(at::kCPU).contiguous();
  const std::int64_t tokens = rows.size(0), experts = rows.size(1);
  at::Tensor solved = at::zeros({experts}, at::kDouble);
  if (tokens == 0) return solved;
  std::vector<double> bias(static_cast<std::size_t>(experts), 0.0);
  const double target = static_cast<double>(tokens) * static_cast<double>(k) / static_cast<double>(experts);
  AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), "solved_bias", [&] {
    const double step = 0.6 * deviation<scalar_t>(rows);
    for (int i = 0; i < kSteps; ++i) {
      const std::vector<std::int64_t> counts = biased_counts<scalar_t>(rows, bias, k);
      for (std::size_t e = 0; e < bias.size(); ++e)
        bias[e] += step / (1 + static_cast<double>(i) / 4) * std::clamp((target - static_cast<double>(counts[e])) / target, -1.0, 1.0);
    }
  });
  std::copy(bias.begin(), bias.end(), solved.mutable_data_ptr<double>());
  return solved;
}

at::Tensor quantile_unit(const at::Tensor& logits, const at::Tensor& beta, std::int64_t k) {
  const at::Tensor rows = logits.detach().to(at::kCPU).contiguous(), bias = beta.to(at::kCPU, at::kDouble).contiguous();
  const std::int64_t tokens = rows.size(0), experts = rows.size(1);
  MOESWEEP_ASSERT(bias.numel() == experts, "quantile_unit needs a beta for every expert");
  if (tokens == 0 || k >= experts) return at::zeros({experts}, at::kDouble);  // every token takes every expert: nothing to move
  at::Tensor moved;
  AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), "quantile", [&] { moved = above_threshold<scalar_t>(rows, bias, k + 1); });
  return column_quantile(moved, tokens * k / experts + 1);
}

}  // namespace moesweep::routing
