// See recompute.hpp.
#include "recompute.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

namespace moesweep::model {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct KeptStretch : torch::CustomClassHolder {
  explicit KeptStretch(Stretch s) : stretch(std::move(s)) {}
  Stretch stretch;
};

class Recomputed : public torch::autograd::Function<Recomputed> {
 public:
  static variable_list forward(AutogradContext* context, at::TensorList inputs, const c10::intrusive_ptr<KeptStretch>& kept) {
    context->save_for_backward(inputs.vec());
    context->saved_data["stretch"] = c10::IValue::make_capsule(kept);
    context->set_materialize_grads(false);
    return kept->stretch(inputs.vec());
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    variable_list inputs;
    for (const at::Tensor& saved : context->get_saved_variables()) {
      inputs.push_back(saved.detach());
      if (saved.is_floating_point()) inputs.back().set_requires_grad(true);
    }
    const auto kept = c10::static_intrusive_pointer_cast<KeptStretch>(context->saved_data["stretch"].toCapsule());
    variable_list outputs, roots, root_gradients;
    {
      const at::AutoGradMode records(true);
      outputs = kept->stretch(inputs);
    }
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (!gradients[i].defined() || !outputs[i].requires_grad()) continue;
      roots.push_back(outputs[i]);
      root_gradients.push_back(gradients[i]);
    }
    torch::autograd::backward(roots, root_gradients);
    variable_list found;
    for (const at::Tensor& input : inputs) found.push_back(input.grad());
    found.emplace_back();  // the stretch
    return found;
  }
};

}  // namespace

std::vector<at::Tensor> recomputed(Stretch stretch, const std::vector<at::Tensor>& inputs) {
  return Recomputed::apply(at::TensorList(inputs), c10::make_intrusive<KeptStretch>(std::move(stretch)));
}

}  // namespace moesweep::model
