// Balancing and regularising losses. See include/moesweep/routing/router.hpp.
#include "moesweep/routing/router.hpp"

namespace moesweep::routing {

namespace {
at::Tensor counting(const at::Tensor& values, const at::Tensor& mask) {
  return mask.defined() ? values * mask.to(values.scalar_type()).view({-1, 1}) : values;
}
}  // namespace

at::Tensor aux_loss(const at::Tensor& probabilities, const at::Tensor& load, const at::Tensor& unit_of_token, const at::Tensor& mask,
                    std::int64_t step_tokens) {
  const at::Tensor share = load.to(probabilities.scalar_type());
  const at::Tensor p = counting(probabilities, mask);
  // One unit for all tokens: the sum over tokens comes first, which spares a [T, E] gather.
  const at::Tensor sum = share.size(0) == 1 ? (p.sum(0) * share[0]).sum() : (p * share.index_select(0, unit_of_token)).sum();
  return sum * (static_cast<double>(probabilities.size(1)) / static_cast<double>(step_tokens));
}

at::Tensor z_loss(const at::Tensor& logits, const at::Tensor& mask, std::int64_t step_tokens) {
  const at::Tensor square = at::logsumexp(logits, -1).square();
  return (mask.defined() ? square * mask.to(square.scalar_type()) : square).sum() / static_cast<double>(step_tokens);
}

at::Tensor max_violation(const at::Tensor& counts) {
  const at::Tensor c = counts.to(at::kDouble);
  const at::Tensor mean = c.mean(-1);
  return at::where(mean > 0, (c.amax(-1) - mean) / mean.clamp_min(1e-300), at::zeros_like(mean));
}

}  // namespace moesweep::routing
