// See include/moesweep/routing/scope.hpp.
#include "moesweep/routing/scope.hpp"

#include "moesweep/core/error.hpp"

namespace moesweep::routing {

std::int64_t Scope::units(const TokenLayout& tokens) const {
  switch (kind_) {
    case ScopeKind::sequence: return tokens.sequences;
    case ScopeKind::micro_batch: return (tokens.sequences + tokens.micro_batch_sequences - 1) / tokens.micro_batch_sequences;
    case ScopeKind::global_batch: return 1;
  }
  return 0;
}

at::Tensor Scope::unit_of_sequence(const TokenLayout& tokens) const {
  switch (kind_) {
    case ScopeKind::sequence: return at::arange(tokens.sequences, at::kLong);
    case ScopeKind::micro_batch: return at::arange(tokens.sequences, at::kLong).div_(tokens.micro_batch_sequences, "floor");
    case ScopeKind::global_batch: break;
  }
  return at::zeros({tokens.sequences}, at::kLong);
}

std::vector<at::Tensor> Scope::totals(std::vector<at::Tensor> sums) const {
  if (kind_ != ScopeKind::global_batch || sums.empty()) return sums;
  at::Tensor total = sums.front().to(at::kDouble).contiguous().clone();
  for (std::size_t p = 1; p < sums.size(); ++p) total += sums[p];
  gang_->all_reduce_sum(total.data_ptr(), static_cast<std::size_t>(total.numel()), DType::f64, "statistics of a balancing scope");
  return std::vector<at::Tensor>(sums.size(), total);
}

}  // namespace moesweep::routing
