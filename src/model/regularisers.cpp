// See regularisers.hpp.
#include "regularisers.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <limits>

#include "moesweep/core/random.hpp"

namespace moesweep::model {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct KeptStack : torch::CustomClassHolder {
  KeptStack(Parameters::Stack s, comm::Transport& transport) : stack(std::move(s)), experts(&transport) {}
  Parameters::Stack stack;
  comm::Transport* experts;
};

void sum_over(comm::Transport& ranks, at::Tensor& values, const char* what) {
  ranks.all_reduce_sum(values.data_ptr(), static_cast<std::size_t>(values.numel()), values.scalar_type() == at::kDouble ? DType::f64 : DType::f32,
                       what);
}

at::Tensor gate_half(const at::Tensor& gate_up) { return gate_up.narrow(2, 0, gate_up.size(2) / 2); }

class GateActivations : public torch::autograd::Function<GateActivations> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& proxies, const c10::intrusive_ptr<KeptStack>& kept) {
    const at::Tensor inner = at::matmul(proxies.unsqueeze(0), gate_half(kept->stack.value));  // [E, n, f]
    const at::Tensor norm = at::linalg_vector_norm(inner, 2, {2});                            // [E, n]
    context->save_for_backward({proxies, inner, norm});
    context->saved_data["stack"] = c10::IValue::make_capsule(kept);
    const std::int64_t mine = norm.size(0), ranks = kept->experts->size();
    at::Tensor columns = at::zeros({proxies.size(0), mine * ranks}, norm.options());
    columns.narrow(1, mine * kept->experts->rank(), mine).copy_(norm.t());
    sum_over(*kept->experts, columns, "columns of gate activations");
    return columns;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &proxies = saved[0], &inner = saved[1], &norm = saved[2];
    const auto kept = c10::static_intrusive_pointer_cast<KeptStack>(context->saved_data["stack"].toCapsule());
    at::Tensor gradient = gradients[0].contiguous().clone();
    sum_over(*kept->experts, gradient, "gradients of gate activations");
    const at::Tensor mine = gradient.narrow(1, norm.size(0) * kept->experts->rank(), norm.size(0));
    // d ||v|| = v / ||v||, and 0 where v is.
    const at::Tensor slope = at::where(norm > 0, mine.t() / norm, at::zeros_like(norm));
    const at::Tensor inner_gradient = inner * slope.unsqueeze(2);
    gate_half(kept->stack.gradient).add_(at::matmul(proxies.t().unsqueeze(0), inner_gradient));
    return {at::matmul(inner_gradient, gate_half(kept->stack.value).transpose(1, 2)).sum(0), at::Tensor()};
  }
};

}  // namespace

at::Tensor gate_activations(const at::Tensor& proxies, const Parameters::Stack& gate_up, comm::Transport& experts) {
  // The matrices have their gradient where the router is frozen, too.
  const at::Tensor input = proxies.requires_grad() ? proxies : proxies.detach().set_requires_grad(true);
  return GateActivations::apply(input, c10::make_intrusive<KeptStack>(gate_up, experts));
}

at::Tensor noisy_proxies(const at::Tensor& rows, std::int64_t seed, std::int64_t step, std::int64_t layer) {
  const std::int64_t experts = rows.size(0), width = rows.size(1);
  const std::uint64_t stream = stable_number("layers." + std::to_string(layer) + ".router_proxies");
  if (experts < 2) return rows;
  // Without the product form, which loses the distance of near rows.
  const at::Tensor distance = at::cdist(rows, rows, 2.0, /*compute_mode=*/2);
  const at::Tensor nearest =
      distance.masked_fill(at::eye(experts, distance.options().dtype(at::kBool)), std::numeric_limits<double>::infinity()).amin(1);
  const at::Tensor epsilon = nearest / (2 * at::linalg_vector_norm(rows, 2, {1})).clamp_min(1e-12);
  at::Tensor drawn = at::empty({experts, width}, at::kDouble);
  auto* out = drawn.mutable_data_ptr<double>();
  for (std::int64_t i = 0; i < experts * width; ++i) {
    const Place place{static_cast<std::uint32_t>(step), static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32),
                      static_cast<std::uint32_t>(i)};
    const auto words = random_words(static_cast<std::uint64_t>(seed), Purpose::resampled, place);
    out[i] = 2 * to_uniform(words[0], words[1]) - 1;
  }
  return rows * (1 + epsilon.unsqueeze(1) * drawn.to(rows.options()));
}

at::Tensor output_orthogonality(const ExpertOutputs& outputs, const routing::Slots& slots, std::int64_t step_tokens) {
  constexpr double kEpsilon = 1e-8;
  const std::int64_t tokens = slots.offsets.numel() - 1, count = outputs.rows.size(0), width = outputs.rows.size(1);
  const at::Tensor offsets = slots.offsets.contiguous(), row_of_slot = outputs.row_of_slot.to(at::kCPU);
  const auto* begin = offsets.const_data_ptr<std::int64_t>();
  const auto* row = row_of_slot.const_data_ptr<std::int64_t>();
  // The rows of each token side by side, [T, most]; a row of zeros, which adds nothing, fills up.
  std::int64_t most = 0;
  for (std::int64_t t = 0; t < tokens; ++t) most = std::max(most, begin[t + 1] - begin[t]);
  at::Tensor table = at::full({tokens * most}, count, at::kLong);
  auto* entry = table.mutable_data_ptr<std::int64_t>();
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t s = begin[t]; s < begin[t + 1]; ++s)
      if (row[s] >= 0) entry[t * most + s - begin[t]] = row[s];
  const at::Tensor padded = at::cat({outputs.rows, at::zeros({1, width}, outputs.rows.options())});
  const at::Tensor o = padded.index_select(0, table.to(padded.device())).view({tokens, most, width});
  const at::Tensor gram = at::matmul(o, o.transpose(1, 2));
  const at::Tensor square = gram.diagonal(0, 1, 2).unsqueeze(1);  // [T, 1, k]: <o_k, o_k>
  const at::Tensor projected = (gram / (square + kEpsilon)).square() * square * (1 - at::eye(most, gram.options()));
  return projected.sum() / static_cast<double>(std::max<std::int64_t>(1, step_tokens));
}

}  // namespace moesweep::model
