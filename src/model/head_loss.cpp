// See head_loss.hpp.
#include "head_loss.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace moesweep::model {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class HeadLoss : public torch::autograd::Function<HeadLoss> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& head, const at::Tensor& targets, std::int64_t compute) {
    const auto type = static_cast<at::ScalarType>(compute);
    const at::Tensor input = x.to(type), matrix = head.to(type);
    at::Tensor logits = at::mm(input, matrix.t()).to(x.scalar_type());
    const at::Tensor normaliser = at::logsumexp(logits, 1, true);
    const at::Tensor loss = (normaliser - logits.gather(1, targets.view({-1, 1}))).view({-1});
    context->save_for_backward({input, matrix, logits.sub_(normaliser), targets});
    context->saved_data["head_type"] = static_cast<std::int64_t>(head.scalar_type());
    return loss;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &input = saved[0], &matrix = saved[1], &log_probabilities = saved[2], &targets = saved[3];
    const at::Tensor scale = gradients[0].view({-1, 1});
    // d loss_t / d logit_v = (softmax - one hot) * gradient_t
    at::Tensor logit_gradient = log_probabilities.exp();
    logit_gradient.scatter_add_(1, targets.view({-1, 1}), at::full({targets.numel(), 1}, -1.0, logit_gradient.options()));
    logit_gradient.mul_(scale);
    const at::Tensor narrow = logit_gradient.to(input.scalar_type());
    const auto head_type = static_cast<at::ScalarType>(context->saved_data["head_type"].toInt());
    return {at::mm(narrow, matrix).to(gradients[0].scalar_type()), at::mm(narrow.t(), input).to(head_type), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor head_loss(const at::Tensor& x, const at::Tensor& head, const at::Tensor& targets, at::ScalarType compute) {
  return HeadLoss::apply(x, head, targets, static_cast<std::int64_t>(compute));
}

}  // namespace moesweep::model
