// Scopes: over which tokens statistics are one unit. Methods ask a scope and never know where its numbers came from.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <span>
#include <vector>

#include "moesweep/comm/transport.hpp"
#include "moesweep/routing/config.hpp"
#include "moesweep/routing/scores.hpp"

namespace moesweep::routing {

/// A partition of the step's tokens into units. `sequence` and `micro_batch` units lie inside one pass; a `group` unit is the j-th
/// micro-batch of a pass on every rank; the `global_batch` unit is the whole optimizer step, over all passes and ranks of the gang.
/// `running` has the units of `group`, and `history` those of `global_batch`: what they add up over time is the caller's.
class Scope {
 public:
  /// `gang` must outlive the scope.
  Scope(ScopeKind kind, comm::Transport& gang) : kind_(kind), gang_(&gang) {}

  ScopeKind kind() const { return kind_; }
  /// A unit may hold tokens of several passes: statistics need all passes of the step at once.
  bool spans_passes() const { return kind_ == ScopeKind::global_batch || kind_ == ScopeKind::history; }
  /// A unit may hold tokens of several ranks: every rank sees the same totals.
  bool spans_ranks() const { return spans_passes() || kind_ == ScopeKind::group || kind_ == ScopeKind::running; }
  /// This rank speaks for the units that it sees: for its own, and one rank for those that span ranks.
  bool speaks() const { return !spans_ranks() || gang_->rank() == 0; }

  /// Units that the pass takes part in.
  std::int64_t units(const TokenLayout& tokens) const;
  /// The unit of each sequence of the pass: [sequences] i64, from 0 within the pass.
  at::Tensor unit_of_sequence(const TokenLayout& tokens) const;

  /// Collective where `spans_ranks()`. `sums[p]` is [units of pass p, C] fp64, what this rank's pass adds to each unit; returned are the
  /// units' totals (a rank whose pass is shorter than another's sees the further units too). Pass the passes of the whole step where
  /// `spans_passes()`.
  std::vector<at::Tensor> totals(std::vector<at::Tensor> sums) const;

  /// What is done with one whole unit: its rows [n, C] in the order of the global batch -> as many rows, or undefined when nothing comes back.
  using UnitFunction = std::function<at::Tensor(const at::Tensor& rows)>;
  /// Collective where `spans_ranks()`. Calls `function` on every unit that this rank takes part in, and gives each pass the rows that belong to
  /// it. `rows[p]` [N, C] of pass p with the sequence of each, [N] i64 ascending. Every rank of a unit computes it from the same rows in the
  /// same order, so the outcome is bitwise the same on every layout. Memory: the rows of a unit, O(T C).
  std::vector<at::Tensor> map_units(std::span<const TokenLayout* const> passes, const std::vector<at::Tensor>& rows,
                                    const std::vector<at::Tensor>& sequence_of_row, const UnitFunction& function) const;

 private:
  ScopeKind kind_;
  comm::Transport* gang_;
};

}  // namespace moesweep::routing
