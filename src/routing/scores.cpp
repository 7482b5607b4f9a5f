// Logits to scores, probabilities and gate weights. See include/moesweep/routing/parts.hpp.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "kernels.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/routing/parts.hpp"

namespace moesweep::routing {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Below it softplus(x) = e^x to the last digit of a double, and sqrt(softplus(x)) = e^(x/2), which underflows later.
constexpr double kFarBelow = -40;
constexpr double kTinySum = 1e-20;

at::Tensor exact_softplus(const at::Tensor& x) { return at::softplus(x, 1, 40); }

template <class Real>
MOESWEEP_INLINE Real sigmoid(Real x) {
  const Real tail = exp_below(-std::abs(x));
  return (x >= 0 ? Real(1) : tail) / (1 + tail);
}

/// s and d log s / dx of a score that looks at one logit alone.
template <class Real>
MOESWEEP_INLINE std::pair<Real, Real> score_and_slope(Real x, Score score) {
  if (score == Score::sigmoid) return {sigmoid(x), sigmoid(-x)};
  if (x < static_cast<Real>(kFarBelow)) return {std::exp(x / 2), Real(0.5)};
  const Real plus = std::max(x, Real(0)) + std::log1p(std::exp(-std::abs(x)));
  return {std::sqrt(plus), sigmoid(x) / (2 * plus)};
}

/// One token's gate, forward and backward: its row of logits, its chosen experts.
template <class Real>
struct GateRow {
  const Real* x;
  std::int64_t experts;
  const std::int64_t* expert;
  std::int64_t slots;

  /// Softmax over all experts; `kept`: row maximum and 1 / sum.
  MOESWEEP_INLINE void softmax(Real scale, Real* weight, Real* kept) const {
    const Real most = row_maximum(x, experts);
    Real sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t e = 0; e < experts; ++e) sum += exp_below(x[e] - most);
    kept[0] = most;
    kept[1] = 1 / sum;
    for (std::int64_t i = 0; i < slots; ++i) weight[i] = scale * kept[1] * exp_below(x[expert[i]] - most);
  }
  /// dx_j = p_j (u_j - sum_i u_i p_i)
  MOESWEEP_INLINE void softmax_backward(Real scale, const Real* upstream, const Real* kept, Real* gradient) const {
    Real inner = 0;
    for (std::int64_t i = 0; i < slots; ++i) inner += upstream[i] * exp_below(x[expert[i]] - kept[0]);
    const Real most = kept[0], factor = -scale * inner * kept[1] * kept[1];
#pragma omp simd
    for (std::int64_t e = 0; e < experts; ++e) gradient[e] = factor * exp_below(x[e] - most);
    for (std::int64_t i = 0; i < slots; ++i) gradient[expert[i]] += scale * upstream[i] * kept[1] * exp_below(x[expert[i]] - most);
  }

  /// Softmax of the chosen logits, unscaled.
  MOESWEEP_INLINE void softmax_selected(Real* weight) const {
    Real most = x[expert[0]], sum = 0;
    for (std::int64_t i = 1; i < slots; ++i) most = std::max(most, x[expert[i]]);
    for (std::int64_t i = 0; i < slots; ++i) sum += weight[i] = exp_below(x[expert[i]] - most);
    for (std::int64_t i = 0; i < slots; ++i) weight[i] /= sum;
  }

  /// sigmoid, sqrt_softplus, relu, unscaled; `slope` [slots], where wanted, becomes d log s / dx.
  MOESWEEP_INLINE void pointwise(Score score, bool normalise, Real* weight, Real* slope) const {
    if (score == Score::relu) {
      for (std::int64_t i = 0; i < slots; ++i) weight[i] = std::max(x[expert[i]], Real(0));
      return;
    }
    Real sum = 0;
    for (std::int64_t i = 0; i < slots; ++i) {
      const auto [s, log_slope] = score_and_slope(x[expert[i]], score);
      sum += weight[i] = s;
      if (slope != nullptr) slope[i] = log_slope;
    }
    if (normalise && slots > 1)
      for (std::int64_t i = 0; i < slots; ++i) weight[i] /= sum + static_cast<Real>(kTinySum);
  }
};

/// One pass of the gate over tokens: what both directions read.
template <class Real>
struct GateRows {
  const Real* x;
  std::int64_t experts;
  const std::int64_t* expert;
  const std::int64_t* offsets;
  Score score;
  Real scale;
  bool normalise;

  /// Asks for the chosen logits of a token some way on: they lie apart in memory.
  MOESWEEP_INLINE void fetch_ahead(std::int64_t t, std::int64_t last) const {
    const std::int64_t next = t + 8;
    if (experts < 64 || next >= last) return;
    for (std::int64_t i = offsets[next]; i < offsets[next + 1]; ++i) __builtin_prefetch(x + next * experts + expert[i]);
  }
  MOESWEEP_INLINE GateRow<Real> row(std::int64_t t) const { return {x + t * experts, experts, expert + offsets[t], offsets[t + 1] - offsets[t]}; }
};

template <class Real>
MOESWEEP_INLINE void gate_forward(const GateRows<Real>* gate, std::int64_t first, std::int64_t last, Real* weight, Real* kept) {
  for (std::int64_t t = first; t < last; ++t) {
    const GateRow<Real> row = gate->row(t);
    Real* w = weight + gate->offsets[t];
    if (row.slots == 0) continue;
    if (gate->score != Score::softmax) gate->fetch_ahead(t, last);
    if (gate->score == Score::softmax) {
      row.softmax(gate->scale, w, kept + 2 * t);
      continue;
    }
    gate->score == Score::softmax_selected ? row.softmax_selected(w) : row.pointwise(gate->score, gate->normalise, w, nullptr);
    for (std::int64_t i = 0; i < row.slots; ++i) w[i] *= gate->scale;
  }
}

/// `buffer` [2 E].
template <class Real>
MOESWEEP_INLINE void gate_backward(const GateRows<Real>* gate, std::int64_t first, std::int64_t last, const Real* upstream, const Real* kept,
                                   Real* gradient, Real* buffer) {
  for (std::int64_t t = first; t < last; ++t) {
    const GateRow<Real> row = gate->row(t);
    const Real* u = upstream + gate->offsets[t];
    Real* g = gradient + t * row.experts;
    if (gate->score == Score::softmax && row.slots > 0) {
      row.softmax_backward(gate->scale, u, kept + 2 * t, g);
      continue;
    }
    for (std::int64_t e = 0; e < row.experts; ++e) g[e] = 0;
    gate->fetch_ahead(t, last);
    if (row.slots == 0) continue;
    if (gate->score == Score::relu) {
      for (std::int64_t i = 0; i < row.slots; ++i)
        if (row.x[row.expert[i]] > 0) g[row.expert[i]] += gate->scale * u[i];
      continue;
    }
    // w_i = s_i / sum s: dx_i = w_i (u_i - sum_j u_j w_j) d log s_i / dx_i, where a softmax has s = e^x.
    const bool selected = gate->score == Score::softmax_selected;
    Real *w = buffer, *slope = buffer + row.experts;
    selected ? row.softmax_selected(w) : row.pointwise(gate->score, gate->normalise, w, slope);
    Real inner = 0;
    if (selected || (gate->normalise && row.slots > 1))
      for (std::int64_t i = 0; i < row.slots; ++i) inner += u[i] * w[i];
    for (std::int64_t i = 0; i < row.slots; ++i) g[row.expert[i]] += gate->scale * w[i] * (u[i] - inner) * (selected ? Real(1) : slope[i]);
  }
}

/// Gate weights of any number of slots a token, with the gradient in closed form.
class Gate : public torch::autograd::Function<Gate> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& logits, const at::Tensor& expert, const at::Tensor& offsets,
                            std::int64_t score, double scale, bool normalise) {
    const at::Tensor rows = logits.contiguous();
    at::Tensor weight = at::empty({expert.numel()}, rows.options());
    const at::Tensor kept = at::empty({score == static_cast<std::int64_t>(Score::softmax) ? rows.size(0) : 0, 2}, rows.options());
    AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), "gate_weights", [&] {
      const auto gate = rows_of<scalar_t>(rows, expert, offsets, score, scale, normalise);
      auto *out = weight.mutable_data_ptr<scalar_t>(), *keep = kept.mutable_data_ptr<scalar_t>();
      at::parallel_for(0, rows.size(0), kGrain, [&](std::int64_t first, std::int64_t last) {
        with_wide_vectors<&gate_forward<scalar_t>>(gate.experts, &gate, first, last, out, keep);
      });
    });
    context->save_for_backward({rows, expert, offsets, kept});
    context->saved_data["score"] = score;
    context->saved_data["scale"] = scale;
    context->saved_data["normalise"] = normalise;
    return weight;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& logits = saved[0];
    at::Tensor gradient = at::empty(logits.sizes(), logits.options());
    AT_DISPATCH_FLOATING_TYPES(logits.scalar_type(), "gate_weights_backward", [&] {
      const auto gate = rows_of<scalar_t>(logits, saved[1], saved[2], context->saved_data["score"].toInt(), context->saved_data["scale"].toDouble(),
                                          context->saved_data["normalise"].toBool());
      const at::Tensor upstream = gradients[0].to(logits.scalar_type()).contiguous();
      const auto *up = upstream.const_data_ptr<scalar_t>(), *keep = saved[3].const_data_ptr<scalar_t>();
      auto* out = gradient.mutable_data_ptr<scalar_t>();
      at::parallel_for(0, logits.size(0), kGrain, [&](std::int64_t first, std::int64_t last) {
        std::vector<scalar_t> buffer(static_cast<std::size_t>(2 * gate.experts));
        with_wide_vectors<&gate_backward<scalar_t>>(gate.experts, &gate, first, last, up, keep, out, buffer.data());
      });
    });
    return {gradient, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }

 private:
  static constexpr std::int64_t kGrain = 256;

  template <class Real>
  static GateRows<Real> rows_of(const at::Tensor& logits, const at::Tensor& expert, const at::Tensor& offsets, std::int64_t score, double scale,
                                bool normalise) {
    return {logits.const_data_ptr<Real>(),
            logits.size(1),
            expert.const_data_ptr<std::int64_t>(),
            offsets.const_data_ptr<std::int64_t>(),
            static_cast<Score>(score),
            static_cast<Real>(scale),
            normalise};
  }
};

/// The same in ATen's operations, for tensors that are not on the CPU.
at::Tensor gate_weights_of_device(const at::Tensor& logits, const Slots& slots, Score score, double scale, bool normalise) {
  const at::Tensor token = slots.token.to(logits.device()), expert = slots.expert.to(logits.device());
  const std::int64_t tokens = logits.size(0);
  const auto sum_of_token = [&](const at::Tensor& values) {
    return at::zeros({tokens}, values.options()).index_add(0, token, values).index_select(0, token);
  };
  at::Tensor weight;
  if (score == Score::softmax_selected) {
    const at::Tensor chosen = logits.index({token, expert});
    const at::Tensor most = at::full({tokens}, -std::numeric_limits<double>::infinity(), logits.options())
                                .scatter_reduce(0, token, chosen.detach(), "amax")
                                .index_select(0, token);
    weight = (chosen - most).exp();
    weight = weight / sum_of_token(weight);
  } else {
    weight = scores_of(logits, score).index({token, expert});
    if (normalise && (score == Score::sigmoid || score == Score::sqrt_softplus)) {
      const at::Tensor several = sum_of_token(at::ones_like(weight)) > 1;
      weight = at::where(several, weight / (sum_of_token(weight) + kTinySum), weight);
    }
  }
  return weight * scale;
}

}  // namespace

at::Tensor scores_of(const at::Tensor& logits, Score score) {
  switch (score) {
    case Score::softmax:
    case Score::softmax_selected: return at::softmax(logits, -1);
    case Score::sigmoid: return at::sigmoid(logits);
    case Score::sqrt_softplus:
      return at::where(logits < kFarBelow, (logits / 2).clamp_max(0).exp(), exact_softplus(logits.clamp_min(kFarBelow)).sqrt());
    case Score::relu: return at::relu(logits);
  }
  throw Error(ErrorKind::internal, "scores_of: no such score");
}

at::Tensor probabilities_of(const at::Tensor& logits, Score score) {
  switch (score) {
    case Score::softmax:
    case Score::softmax_selected: return at::softmax(logits, -1);
    // s / sum s through log s: exact also where every score underflows.
    case Score::sigmoid: return at::softmax(at::log_sigmoid(logits), -1);
    case Score::sqrt_softplus: return at::softmax(at::where(logits < kFarBelow, logits, exact_softplus(logits.clamp_min(kFarBelow)).log()) / 2, -1);
    case Score::relu: {
      const at::Tensor active = at::relu(logits), sum = active.sum(-1, true);
      return active / at::where(sum > 0, sum, at::ones_like(sum));
    }
  }
  throw Error(ErrorKind::internal, "probabilities_of: no such score");
}

at::Tensor gate_weights(const at::Tensor& logits, const Slots& slots, Score score, double scale, bool normalise) {
  if (!logits.is_cpu()) return gate_weights_of_device(logits, slots, score, scale, normalise);
  MOESWEEP_ASSERT(logits.dim() == 2 && slots.offsets.numel() == logits.size(0) + 1, "gate_weights needs [T, E] logits and the slots of T tokens");
  return Gate::apply(logits, slots.expert.contiguous(), slots.offsets.contiguous(), static_cast<std::int64_t>(score), scale, normalise);
}

}  // namespace moesweep::routing
