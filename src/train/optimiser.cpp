// See optimiser.hpp.
#include "optimiser.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>

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

double gradient_norm(model::Parameters& parameters, comm::Transport& experts) {
  // Piece by piece: the norm in fp64 makes a copy in fp64 of what it is asked for.
  constexpr std::int64_t kPiece = 1 << 20;
  const auto squares = [&](ParameterClass c) {
    const at::Tensor& gradient = parameters.buffers(c).gradient;
    double sum = 0;
    for (std::int64_t first = 0; first < gradient.numel(); first += kPiece) {
      const at::Tensor piece = gradient.narrow(0, first, std::min(kPiece, gradient.numel() - first));
      sum += std::pow(at::linalg_vector_norm(piece, 2, {}, false, at::kDouble).item<double>(), 2);
    }
    return sum;
  };
  return std::sqrt(squares(ParameterClass::dense) + experts.all_reduce_sum(squares(ParameterClass::expert), "gradient norm of the experts"));
}

void clip_gradients(model::Parameters& parameters, double norm, double clip_norm) {
  if (clip_norm <= 0 || norm <= clip_norm) return;
  for (const auto c : kClasses) parameters.buffers(c).gradient.mul_(clip_norm / norm);
}

void adamw_step(model::Parameters& parameters, const TrainConfig& config, std::int64_t step, double learning_rate) {
  const auto update = [&](std::vector<at::Tensor> value, std::vector<at::Tensor> gradient, std::vector<at::Tensor> first,
                          std::vector<at::Tensor> second, double weight_decay) {
    if (value.empty()) return;
    const std::vector<at::Tensor> steps(value.size(), at::full({}, static_cast<double>(step + 1), at::device(value[0].device()).dtype(at::kFloat)));
    at::_fused_adamw_(value, gradient, first, second, {}, steps, learning_rate, config.beta1, config.beta2, weight_decay, config.epsilon,
                      /*amsgrad=*/false, /*maximize=*/false);
  };
  // Elements [begin, end) of a class's buffers, as far as this rank updates them.
  struct Piece {
    at::Tensor value, gradient, first, second;
  };
  const auto piece_of = [&](ParameterClass c, std::int64_t begin, std::int64_t end) -> std::optional<Piece> {
    const model::Buffers& b = parameters.buffers(c);
    begin = std::max(begin, b.first_updated);
    end = std::min(end, b.first_updated + b.first_moment.numel());
    if (begin >= end) return {};
    const auto count = end - begin, moment = begin - b.first_updated;
    return Piece{b.value.narrow(0, begin, count), b.gradient.narrow(0, begin, count), b.first_moment.narrow(0, moment, count),
                 b.second_moment.narrow(0, moment, count)};
  };
  if (config.weight_decay == 0) {
    for (const auto c : kClasses)
      if (const auto piece = piece_of(c, 0, parameters.buffers(c).value.numel()))
        update({piece->value}, {piece->gradient}, {piece->first}, {piece->second}, 0);
    return;
  }
  for (const bool decays : {false, true}) {
    std::vector<at::Tensor> value, gradient, first, second;
    for (const auto& span : parameters.spans()) {
      if (span.decays != decays || span.frozen) continue;
      const auto piece = piece_of(span.parameter_class, span.offset, span.offset + span.count());
      if (!piece) continue;
      value.push_back(piece->value);
      gradient.push_back(piece->gradient);
      first.push_back(piece->first);
      second.push_back(piece->second);
    }
    update(value, gradient, first, second, decays ? config.weight_decay : 0);
  }
}

}  // namespace moesweep::train
