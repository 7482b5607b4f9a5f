// Balancing and regularising losses. See include/moesweep/routing/parts.hpp.
#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "moesweep/routing/parts.hpp"

namespace moesweep::routing {

namespace {

/// Rows that do not count become 0, whatever they hold.
at::Tensor counting(const at::Tensor& rows, const at::Tensor& mask) {
  if (!mask.defined()) return rows;
  const at::Tensor out = mask.to(rows.device()).logical_not();
  return rows.masked_fill(rows.dim() == 2 ? out.unsqueeze(1) : out, 0);
}

/// Counting tokens of the step as a divisor; a step without any has sums of 0.
double divisor(std::int64_t step_tokens) { return static_cast<double>(std::max<std::int64_t>(1, step_tokens)); }

}  // namespace

at::Tensor aux_loss(const at::Tensor& probabilities, const at::Tensor& load, const at::Tensor& unit_of_token, const at::Tensor& mask,
                    std::int64_t step_tokens) {
  const at::Tensor share = load.to(probabilities.device(), probabilities.scalar_type());
  const at::Tensor p = counting(probabilities, mask);
  // One unit for all tokens: the sum over tokens comes first, which spares a [T, E] gather.
  const at::Tensor sum =
      share.size(0) == 1 ? (p.sum(0) * share[0]).sum() : (p * share.index_select(0, unit_of_token.to(probabilities.device()))).sum();
  return sum * (static_cast<double>(probabilities.size(1)) / divisor(step_tokens));
}

at::Tensor z_loss(const at::Tensor& logits, const at::Tensor& mask, std::int64_t step_tokens) {
  const at::Tensor square = at::logsumexp(counting(logits, mask), -1).square();
  return counting(square, mask).sum() / divisor(step_tokens);
}

at::Tensor token_entropy(const at::Tensor& probabilities, const at::Tensor& mask, std::int64_t step_tokens) {
  const at::Tensor p = counting(probabilities, mask);
  // Bounded from below, p log p and its slope are finite where p is 0.
  const double least = p.scalar_type() == at::kDouble ? std::numeric_limits<double>::min() : std::numeric_limits<float>::min();
  return -(p * p.clamp_min(least).log()).sum() / divisor(step_tokens);
}

at::Tensor router_orthogonality(const at::Tensor& rows) { return (at::mm(rows, rows.t()) - at::eye(rows.size(0), rows.options())).abs().sum(); }

at::Tensor expert_router_coupling(const at::Tensor& activations, double margin) {
  const std::int64_t experts = activations.size(0);
  const at::Tensor own = activations.diagonal().unsqueeze(1) * margin;
  const at::Tensor others = at::ones_like(activations) - at::eye(experts, activations.options());
  const at::Tensor excess = at::relu(activations - own) + at::relu(activations.t() - own);
  return (excess * others).sum() / static_cast<double>(experts * experts);
}

}  // namespace moesweep::routing
