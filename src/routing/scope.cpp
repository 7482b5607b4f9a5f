// See include/moesweep/routing/scope.hpp.
#include "moesweep/routing/scope.hpp"

#include <algorithm>
#include <cstring>

#include "moesweep/core/error.hpp"

namespace moesweep::routing {

std::int64_t Scope::units(const TokenLayout& tokens) const {
  switch (kind_) {
    case ScopeKind::sequence: return tokens.sequences;
    case ScopeKind::micro_batch:
    case ScopeKind::group:
    case ScopeKind::running: return (tokens.sequences + tokens.micro_batch_sequences - 1) / tokens.micro_batch_sequences;
    case ScopeKind::global_batch:
    case ScopeKind::history: return 1;
  }
  return 0;
}

at::Tensor Scope::unit_of_sequence(const TokenLayout& tokens) const {
  switch (kind_) {
    case ScopeKind::sequence: return at::arange(tokens.sequences, at::kLong);
    case ScopeKind::micro_batch:
    case ScopeKind::group:
    case ScopeKind::running: return at::arange(tokens.sequences, at::kLong).div_(tokens.micro_batch_sequences, "floor");
    case ScopeKind::global_batch:
    case ScopeKind::history: break;
  }
  return at::zeros({tokens.sequences}, at::kLong);
}

namespace {

/// The largest of a number over the gang.
std::int64_t largest(std::int64_t mine, comm::Transport& gang, const char* what) {
  std::int64_t most = 0;
  for (const auto& part : gang.all_gather(std::as_bytes(std::span(&mine, 1)), what)) {
    std::int64_t theirs = 0;
    std::memcpy(&theirs, part.data(), sizeof theirs);
    most = std::max(most, theirs);
  }
  return most;
}

/// Rows of one pass cut at the borders of its units: unit u is [cut[u], cut[u + 1]).
std::vector<std::int64_t> cuts_of(const at::Tensor& unit_of_row, std::int64_t units) {
  std::vector<std::int64_t> cuts(static_cast<std::size_t>(units) + 1, 0);
  const at::Tensor ids = unit_of_row.contiguous();
  const auto* unit = ids.const_data_ptr<std::int64_t>();
  for (std::int64_t row = 0; row < ids.numel(); ++row) ++cuts[static_cast<std::size_t>(unit[row]) + 1];
  for (std::size_t u = 1; u < cuts.size(); ++u) cuts[u] += cuts[u - 1];
  return cuts;
}

/// Every rank's rows [n_r, C], in rank order.
std::vector<at::Tensor> gathered(const at::Tensor& rows, comm::Transport& gang) {
  if (gang.size() == 1) return {rows};
  const at::Tensor mine = rows.contiguous();
  const std::size_t bytes = static_cast<std::size_t>(mine.numel()) * mine.element_size();
  std::vector<at::Tensor> all;
  for (const auto& part : gang.all_gather({static_cast<const std::byte*>(mine.data_ptr()), bytes}, "rows of a balancing unit")) {
    const auto count =
        static_cast<std::int64_t>(part.size() / (static_cast<std::size_t>(std::max<std::int64_t>(1, mine.size(1))) * mine.element_size()));
    at::Tensor theirs = at::empty({count, mine.size(1)}, mine.options());
    if (!part.empty()) std::memcpy(theirs.data_ptr(), part.data(), part.size());
    all.push_back(std::move(theirs));
  }
  return all;
}

}  // namespace

std::vector<at::Tensor> Scope::totals(std::vector<at::Tensor> sums) const {
  if (!spans_ranks() || sums.empty()) return sums;
  const auto reduce = [&](at::Tensor& total) {
    gang_->all_reduce_sum(total.data_ptr(), static_cast<std::size_t>(total.numel()), DType::f64, "statistics of a balancing scope");
  };
  if (!spans_passes()) {
    for (at::Tensor& sum : sums) {
      const std::int64_t units = gang_->size() == 1 ? sum.size(0) : largest(sum.size(0), *gang_, "micro-batches of a group");
      at::Tensor padded = at::zeros({units, sum.size(1)}, at::kDouble);
      padded.narrow(0, 0, sum.size(0)).copy_(sum);
      reduce(padded);
      sum = padded;
    }
    return sums;
  }
  at::Tensor total = sums.front().to(at::kDouble).contiguous().clone();
  for (std::size_t p = 1; p < sums.size(); ++p) total += sums[p];
  reduce(total);
  return std::vector<at::Tensor>(sums.size(), total);
}

std::vector<at::Tensor> Scope::map_units(std::span<const TokenLayout* const> passes, const std::vector<at::Tensor>& rows,
                                         const std::vector<at::Tensor>& sequence_of_row, const UnitFunction& function) const {
  std::vector<at::Tensor> results(passes.size());
  if (passes.empty()) return results;
  if (spans_passes()) {
    const auto parts = gathered(passes.size() == 1 ? rows.front() : at::cat(rows), *gang_);
    const at::Tensor result = function(parts.size() == 1 ? parts.front() : at::cat(parts));
    if (!result.defined()) return results;
    std::int64_t first = 0;
    for (int rank = 0; rank < gang_->rank(); ++rank) first += parts[static_cast<std::size_t>(rank)].size(0);
    for (std::size_t p = 0; p < passes.size(); ++p) {
      results[p] = result.narrow(0, first, rows[p].size(0));
      first += rows[p].size(0);
    }
    return results;
  }
  for (std::size_t p = 0; p < passes.size(); ++p) {
    const std::int64_t own = units(*passes[p]);
    const auto cuts = cuts_of(unit_of_sequence(*passes[p]).index_select(0, sequence_of_row[p]), own);
    const std::int64_t shared = kind_ == ScopeKind::group && gang_->size() > 1 ? largest(own, *gang_, "micro-batches of a group") : own;
    std::vector<at::Tensor> pieces;
    for (std::int64_t u = 0; u < shared; ++u) {
      const auto i = static_cast<std::size_t>(u);
      const std::int64_t first = u < own ? cuts[i] : rows[p].size(0), count = u < own ? cuts[i + 1] - cuts[i] : 0;
      const at::Tensor mine = rows[p].narrow(0, first, count);
      if (kind_ != ScopeKind::group) {
        pieces.push_back(function(mine));
        continue;
      }
      const auto parts = gathered(mine, *gang_);
      const at::Tensor result = function(parts.size() == 1 ? parts.front() : at::cat(parts));
      std::int64_t before = 0;
      for (int rank = 0; rank < gang_->rank(); ++rank) before += parts[static_cast<std::size_t>(rank)].size(0);
      pieces.push_back(result.defined() ? result.narrow(0, before, count) : result);
    }
    if (!pieces.empty() && pieces.front().defined()) results[p] = at::cat(pieces);
    else if (pieces.empty()) results[p] = function(rows[p]);  // an empty pass: what the function makes of no rows
  }
  return results;
}

}  // namespace moesweep::routing
