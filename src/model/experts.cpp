// See experts.hpp.
#include "experts.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <chrono>
#include <optional>

#include "combine.hpp"
#include "expert_exchange.hpp"
#include "moesweep/core/error.hpp"

namespace moesweep::model {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// What forward leaves for backward; held by the context through a shared pointer.
struct Kept : torch::CustomClassHolder {
  Dispatch dispatch;
  Parameters::Stack gate_up, down;
  at::Tensor gate_up_compute, down_compute;
  at::ScalarType compute = at::kFloat;
  std::optional<ExpertExchange> exchange;
  ExpertWork* work = nullptr;
};

/// Rows [start[e], start[e + 1]) of this rank's experts meet matrix e.
template <class Product>
void for_each_expert(const std::vector<std::int64_t>& start, Product&& product) {
  for (std::size_t e = 0; e + 1 < start.size(); ++e)
    if (const std::int64_t count = start[e + 1] - start[e]; count > 0) product(static_cast<std::int64_t>(e), start[e], count);
}

/// Adds the time of its life.
class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) : seconds_(&seconds) {}
  ~Stopwatch() { *seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count(); }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double* seconds_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

/// gradient[e] += a^T b, in the gradient's type.
void add_product(const at::Tensor& gradient, const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() == gradient.scalar_type()) at::Tensor(gradient).addmm_(a.t(), b);
  else at::Tensor(gradient).add_(at::mm(a.t(), b));
}

class RoutedExperts : public torch::autograd::Function<RoutedExperts> {
 public:
  /// Gives {combined, rows}.
  static variable_list forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight, const c10::intrusive_ptr<Kept>& kept,
                               const std::function<void()>* meanwhile) {
    const Dispatch& dispatch = kept->dispatch;
    const auto& start = kept->exchange->start();
    at::Tensor sent;
    {
      const Stopwatch watch(kept->work->dispatch);
      sent = x.to(kept->compute).index_select(0, dispatch.token_of_row);
    }
    const at::Tensor input = kept->exchange->to_experts(sent, *meanwhile);
    const std::int64_t rows = input.size(0), f = kept->down.value.size(1), d = x.size(1);
    at::Tensor inner = at::empty({rows, 2 * f}, input.options()), output = at::empty({rows, d}, input.options()), activation;
    {
      const Stopwatch watch(kept->work->compute);
      for_each_expert(start, [&](std::int64_t e, std::int64_t first, std::int64_t count) {
        at::Tensor out = inner.narrow(0, first, count);
        at::mm_out(out, input.narrow(0, first, count), kept->gate_up_compute[e]);
      });
      activation = at::silu(inner.narrow(1, 0, f)).mul_(inner.narrow(1, f, f));
      for_each_expert(start, [&](std::int64_t e, std::int64_t first, std::int64_t count) {
        at::Tensor out = output.narrow(0, first, count);
        at::mm_out(out, activation.narrow(0, first, count), kept->down_compute[e]);
      });
    }
    const at::Tensor wide = kept->exchange->from_experts(output).to(x.scalar_type());
    context->save_for_backward({input, inner, activation, wide, weight});
    context->saved_data["kept"] = c10::IValue::make_capsule(kept);
    context->set_materialize_grads(false);
    const Stopwatch watch(kept->work->dispatch);
    return {combine(wide, dispatch, weight), wide};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &input = saved[0], &inner = saved[1], &activation = saved[2], &output = saved[3], &weight = saved[4];
    const auto kept = c10::static_intrusive_pointer_cast<Kept>(context->saved_data["kept"].toCapsule());
    const Dispatch& dispatch = kept->dispatch;
    const auto& start = kept->exchange->start();
    const std::int64_t f = kept->down.value.size(1);
    at::Tensor row_gradient, weight_gradient;
    {
      const Stopwatch watch(kept->work->dispatch);
      if (gradients[0].defined()) {
        const CombineGradients through = combine_backward(gradients[0].contiguous(), output, dispatch, weight);
        row_gradient = through.rows;
        weight_gradient = through.weight;
      }
      if (gradients[1].defined()) row_gradient = row_gradient.defined() ? row_gradient.add_(gradients[1]) : gradients[1];
      // Every rank takes part in the exchange, whatever its own gradients.
      row_gradient = row_gradient.defined() ? row_gradient.to(kept->compute).contiguous() : at::zeros(output.sizes(), input.options());
    }
    const at::Tensor output_gradient = kept->exchange->to_experts(row_gradient);

    // Through one matrix of each expert: the gradient of its input rows, and that of the matrix, added to its stack.
    const auto through = [&](const at::Tensor& from, const at::Tensor& matrix, const at::Tensor& rows, const at::Tensor& matrix_gradient) {
      at::Tensor gradient = at::empty_like(rows);
      for_each_expert(start, [&](std::int64_t e, std::int64_t first, std::int64_t count) {
        const at::Tensor part = from.narrow(0, first, count);
        at::Tensor out = gradient.narrow(0, first, count);
        at::mm_out(out, part, matrix[e].t());
        add_product(matrix_gradient[e], rows.narrow(0, first, count), part);
      });
      return gradient;
    };
    at::Tensor input_gradient;
    {
      const Stopwatch watch(kept->work->compute);
      at::Tensor activation_gradient = through(output_gradient, kept->down_compute, activation, kept->down.gradient);
      const at::Tensor gate = inner.narrow(1, 0, f), up = inner.narrow(1, f, f);
      at::Tensor inner_gradient = at::empty_like(inner);
      at::Tensor gate_gradient = inner_gradient.narrow(1, 0, f), up_gradient = inner_gradient.narrow(1, f, f);
      at::mul_out(up_gradient, activation_gradient, at::silu(gate));
      gate_gradient.copy_(at::silu_backward(activation_gradient.mul_(up), gate));
      input_gradient = through(inner_gradient, kept->gate_up_compute, input, kept->gate_up.gradient);
    }
    const at::Tensor returned = kept->exchange->from_experts(input_gradient).to(output.scalar_type());
    const Stopwatch watch(kept->work->dispatch);
    const at::Tensor x_gradient = combine(returned, dispatch, at::Tensor());
    return {x_gradient, weight_gradient, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

ExpertOutputs expert_outputs(const at::Tensor& x, const routing::Assignment& assignment, const Parameters::Stack& gate_up,
                             const Parameters::Stack& down, at::ScalarType compute, comm::Transport& experts, ExpertWork& work,
                             const std::function<void()>& meanwhile) {
  MOESWEEP_ASSERT(x.dim() == 2 && assignment.slots.offsets.numel() == x.size(0) + 1, "expert_outputs needs x [T, d] and offsets [T + 1]");
  auto kept = c10::make_intrusive<Kept>();
  kept->work = &work;
  {
    const Stopwatch watch(work.dispatch);
    kept->dispatch = sort_by_expert(assignment.slots, gate_up.value.size(0) * experts.size(), x.device());
  }
  kept->exchange.emplace(experts, kept->dispatch.start, &work);
  kept->gate_up = gate_up;
  kept->down = down;
  kept->gate_up_compute = gate_up.value.to(compute);
  kept->down_compute = down.value.to(compute);
  kept->compute = compute;
  const auto outputs = RoutedExperts::apply(x.contiguous(), assignment.weight.to(x.options()).contiguous(), kept, &meanwhile);
  return {outputs[0], outputs[1], kept->dispatch.row_of_slot};
}

}  // namespace moesweep::model
