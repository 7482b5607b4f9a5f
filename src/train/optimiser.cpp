// See optimiser.hpp.
#include "optimiser.hpp"

#include <ATen/ATen.h>

#include <numbers>

namespace moesweep::train {

using model::ParameterClass;

namespace {
constexpr ParameterClass kClasses[] = {ParameterClass::dense, ParameterClass::expert};
}

double learning_rate_at(const TrainConfig& config, std::int64_t step, std::int64_t steps) {
  if (step < config.warmup_steps) return config.learning_rate * static_cast<double>(step + 1) / static_cast<double>(config.warmup_steps);
  const auto rest = static_cast<double>(std::max<std::int64_t>(1, steps - 1 - config.warmup_steps));
  const double progress = std::min(1.0, static_cast<double>(step - config.warmup_steps) / rest);
  const double share = config.final_learning_rate_share;
  return config.learning_rate * (share + (1 - share) * 0.5 * (1 + std::cos(std::numbers::pi * progress)));
}

double gradient_norm(model::Parameters& parameters) {
  double squares = 0;
  for (const auto c : kClasses) {
    const at::Tensor norm = at::linalg_vector_norm(parameters.buffers(c).gradient, 2, {}, false, at::kDouble);
    squares += std::pow(norm.item<double>(), 2);
  }
  return std::sqrt(squares);
}

void clip_gradients(model::Parameters& parameters, double norm, double clip_norm) {
  if (clip_norm <= 0 || norm <= clip_norm) return;
  for (const auto c : kClasses) parameters.buffers(c).gradient.mul_(clip_norm / norm);
}

void adamw_step(model::Parameters& parameters, const TrainConfig& config, std::int64_t step, double learning_rate) {
  const auto update = [&](std::vector<at::Tensor> value, std::vector<at::Tensor> gradient, std::vector<at::Tensor> first,
                          std::vector<at::Tensor> second, double weight_decay) {
    if (value.empty()) return;
    const std::vector<at::Tensor> steps(value.size(), at::full({}, static_cast<double>(step + 1), at::kFloat));
    at::_fused_adamw_(value, gradient, first, second, {}, steps, learning_rate, config.beta1, config.beta2, weight_decay, config.epsilon,
                      /*amsgrad=*/false, /*maximize=*/false);
  };
  if (config.weight_decay == 0) {
    for (const auto c : kClasses) {
      auto& b = parameters.buffers(c);
      update({b.value}, {b.gradient}, {b.first_moment}, {b.second_moment}, 0);
    }
    return;
  }
  for (const bool decays : {false, true}) {
    std::vector<at::Tensor> value, gradient, first, second;
    for (const auto& span : parameters.spans()) {
      if (span.decays != decays || span.frozen) continue;
      auto& b = parameters.buffers(span.parameter_class);
      value.push_back(b.value.narrow(0, span.offset, span.count()));
      gradient.push_back(b.gradient.narrow(0, span.offset, span.count()));
      first.push_back(b.first_moment.narrow(0, span.offset, span.count()));
      second.push_back(b.second_moment.narrow(0, span.offset, span.count()));
    }
    update(value, gradient, first, second, decays ? config.weight_decay : 0);
  }
}

}  // namespace moesweep::train
