// Scopes: over which tokens statistics are one unit. Methods ask a scope and never know where its numbers came from.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

#include "moesweep/comm/transport.hpp"
#include "moesweep/routing/config.hpp"
#include "moesweep/routing/scores.hpp"

namespace moesweep::routing {

/// A partition of the step's tokens into units. `sequence` and `micro_batch` units lie inside one pass; the `global_batch` unit is
/// the whole optimizer step, over all passes and ranks of the gang.
class Scope {
 public:
  /// `gang` must outlive the scope.
  Scope(ScopeKind kind, comm::Transport& gang) : kind_(kind), gang_(&gang) {}

  ScopeKind kind() const { return kind_; }
  /// A unit may hold tokens of several passes: statistics need all passes of the step at once.
  bool spans_passes() const { return kind_ == ScopeKind::global_batch; }
  /// A unit may hold tokens of several ranks: every rank sees the same totals.
  bool spans_ranks() const { return kind_ == ScopeKind::global_batch; }

  /// Units that the pass takes part in.
  std::int64_t units(const TokenLayout& tokens) const;
  /// The unit of each sequence of the pass: [sequences] i64, from 0 within the pass.
  at::Tensor unit_of_sequence(const TokenLayout& tokens) const;

  /// Collective where `spans_ranks()`. `sums[p]` is [units of pass p, C], what this rank's pass adds to each unit; returned are the
  /// units' totals, in the same shapes. Pass the passes of the whole step where `spans_passes()`.
  std::vector<at::Tensor> totals(std::vector<at::Tensor> sums) const;

 private:
  ScopeKind kind_;
  comm::Transport* gang_;
};

}  // namespace moesweep::routing
