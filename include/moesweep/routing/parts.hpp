// The parts of a strategy as pure functions. All are without gradient unless their docstring says otherwise; ties go to the lowest expert,
// then to the lowest token. Results depend on no number of threads. T tokens, E experts, k experts per token; unit functions see the
// counting tokens of one unit only, in the order of the global batch. Sources and formulas: src/routing/README.md.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "moesweep/routing/config.hpp"
#include "moesweep/routing/scores.hpp"

namespace moesweep::routing {

// Scores.

/// s [T, E] of the logits: the scores that selection compares (softmax for softmax_selected too). Differentiable.
at::Tensor scores_of(const at::Tensor& logits, Score score);
/// p [T, E]: scores normalised to sum 1 over experts (rows of zeros, which relu can give, stay zeros). Differentiable.
at::Tensor probabilities_of(const at::Tensor& logits, Score score);
/// Gate weights [N] of the slots' experts from `logits` [T, E], times `scale`. softmax: p; softmax_selected: softmax of the token's chosen
/// logits; sigmoid and sqrt_softplus: divided by the token's chosen sum + 1e-20 where it has more than one slot and `normalise`; relu: R.
/// Differentiable in the logits: gathered from dense scores, so that every slot has its gradient.
at::Tensor gate_weights(const at::Tensor& logits, const Slots& slots, Score score, double scale, bool normalise = true);

// Noise, as a function of (seed, step, layer, sequence, position, expert): [T, E] fp64 or fp32 as `type` says.
at::Tensor gaussian_noise(const TokenLayout& tokens, std::int64_t layer, std::int64_t experts, at::ScalarType type);
/// Standard Gumbel: top-k of x + noise samples k experts without replacement from softmax(x).
at::Tensor gumbel_noise(const TokenLayout& tokens, std::int64_t layer, std::int64_t experts, at::ScalarType type);
/// U(1 - epsilon, 1 + epsilon) for each element of the router's input: [T, width].
at::Tensor jitter_factors(const TokenLayout& tokens, std::int64_t layer, std::int64_t width, double epsilon, at::ScalarType type);

// Selection.

/// The k largest of each row: [T, k] i64, largest first.
at::Tensor top_k_indices(const at::Tensor& keys, std::int64_t k);
/// The keys with -inf outside the `groups.keep` best groups of each row.
at::Tensor group_limited(const at::Tensor& keys, const GroupConfig& groups, std::int64_t k);
/// k / count best of every group of a row, [T, k], best first over the whole row.
at::Tensor grouped_top_k_indices(const at::Tensor& keys, std::int64_t groups, std::int64_t k);
/// The smallest prefix of each row's sorted probabilities [T, E] whose sum is at least `share`, at least 1 and at most `most` experts.
Slots top_p_slots(const at::Tensor& probabilities, double share, std::int64_t most, const at::Tensor& mask = {});
/// k distinct experts per token, uniform, as a function of (seed, step, layer, sequence, position): [T, k] i64.
at::Tensor random_experts(const TokenLayout& tokens, std::int64_t layer, std::int64_t experts, std::int64_t k);
/// A fixed table [V, k] of k distinct experts per token id: uniform by (seed, layer, id), or by falling frequency (`frequency` [V], ties to
/// the lower id) to the k least loaded experts.
at::Tensor hash_table(HashTable kind, std::int64_t seed, std::int64_t layer, std::int64_t vocabulary, std::int64_t experts, std::int64_t k,
                      const std::vector<double>& frequency);
/// Values to compare across tokens: fp64 ones rounded to 36 bits, so that tokens which are equal but for the rounding of one layout or another
/// tie on all of them. fp32 as they are.
at::Tensor comparable(const at::Tensor& values);
/// Tokens that each expert of a unit takes, its `count` best: [T, E] bool (expert choice, arXiv 2202.09368).
at::Tensor expert_choice_unit(const at::Tensor& scores, std::int64_t count);
/// The n-th largest of each column of a unit: [E] fp64; n is cut to T.
at::Tensor column_quantile(const at::Tensor& values, std::int64_t n);

// Methods that choose from a whole unit.

struct SinkhornResult {
  at::Tensor keys;  ///< [T, E], d0 C d1
  std::int64_t iterations = 0;
  bool converged = false;
};
/// Sinkhorn scaling of exp(logits - row maximum) to row sums 1 / T and column sums 1 / E (Megatron-Core's; FORMULAS of src/routing/README.md).
SinkhornResult sinkhorn_unit(const at::Tensor& logits, std::int64_t iterations, double tolerance);
/// The bias [E] fp64 that balances a unit: 10 damped steps from zero, for top-k of logits + bias.
at::Tensor solved_bias_unit(const at::Tensor& logits, std::int64_t k);
struct AssignmentResult {
  at::Tensor expert;       ///< [T, k] i64, a token's experts by falling logit
  double epsilon = 0;      ///< the summed logits are within T k epsilon of the optimum, unless completed
  bool completed = false;  ///< the iteration cap was reached, and the rest was given out greedily
};
/// Maximises the summed logits with k distinct experts a token and exactly T k / E tokens an expert (else floor and ceil, the larger ones to
/// the lower experts), by an epsilon-scaled auction (BASE, arXiv 2103.16716).
AssignmentResult assignment_unit(const at::Tensor& logits, std::int64_t k);
/// q [E] fp64 of quantile balancing: alpha[t] = (k+1)-th largest of logits - beta, q[e] = (T k / E + 1)-th largest over t of logits - alpha;
/// 0 where k = E, which leaves nothing to move. `beta` [E] fp64.
at::Tensor quantile_unit(const at::Tensor& logits, const at::Tensor& beta, std::int64_t k);

// Capacity.

/// One (token, slot) pair as capacity sees it: rows of a unit, by token, then slot.
struct CapacityRow {
  std::int64_t token = 0;  ///< number within the unit
  std::int64_t expert = 0;
  std::int64_t slot = 0;  ///< place among the token's choices, from 0
  double priority = 0;    ///< final gate weight (probability), uniform number (random)
};
/// Most tokens of an expert: min(T, ceil(T k factor / E - 1e-9)).
std::int64_t capacity_of(std::int64_t tokens, std::int64_t k, std::int64_t experts, double factor);
/// Which rows of a unit are dropped when an expert takes at most `capacity`; ties of priority: lower token, then earlier slot.
std::vector<bool> dropped_over_capacity(const std::vector<CapacityRow>& rows, std::int64_t experts, std::int64_t capacity, CapacityPolicy policy);
/// A uniform priority per (token, slot) by (seed, step, layer, sequence, position, slot): [N] fp64.
at::Tensor capacity_priorities(const TokenLayout& tokens, std::int64_t layer, const Slots& slots);

// Counting.

/// (token, slot) pairs by group: `group` [T] i64 in [0, groups); masked tokens are left out, dropped slots count. [groups, E] i64.
at::Tensor count_slots(const Slots& slots, const at::Tensor& group, std::int64_t groups, std::int64_t experts, const at::Tensor& mask);
/// The same without dropped slots.
at::Tensor count_kept_slots(const Slots& slots, const at::Tensor& group, std::int64_t groups, std::int64_t experts, const at::Tensor& mask);
/// (max c - mean c) / mean c of each row of counts [..., E], fp64; 0 for a row of zeros.
at::Tensor max_violation(const at::Tensor& counts);

// Granularity.

/// Rows [T, C] with what stands for each token's decision: itself (token); the mean of its sequence's counting rows, or of the first n of
/// them for tokens behind those (sequence); the mean of its micro-batch's counting rows (batch). Differentiable.
at::Tensor pool_rows(const at::Tensor& rows, const TokenLayout& tokens, Granularity granularity, const PoolConfig& pool);
/// The layout whose random numbers belong to decisions: tokens of one decision draw at the same place.
TokenLayout decision_layout(const TokenLayout& tokens, Granularity granularity, const PoolConfig& pool);

// Losses, differentiable in their first argument.

/// The weight-free balancing loss E sum_u sum_e f[u, e] sum_{t in u} p[t, e] over the step's tokens; gradient through p only.
/// `load` [units, E] shares.
at::Tensor aux_loss(const at::Tensor& probabilities, const at::Tensor& load, const at::Tensor& unit_of_token, const at::Tensor& mask,
                    std::int64_t step_tokens);
/// mean over the step's tokens of logsumexp(logits)^2, this pass's share.
at::Tensor z_loss(const at::Tensor& logits, const at::Tensor& mask, std::int64_t step_tokens);
/// mean over the step's tokens of the entropy of each row of p, this pass's share.
at::Tensor token_entropy(const at::Tensor& probabilities, const at::Tensor& mask, std::int64_t step_tokens);
/// sum |R R^T - 1| over router rows [E, d] (SimBal, arXiv 2506.14038).
at::Tensor router_orthogonality(const at::Tensor& rows);
/// 1/E^2 sum_{i != j} relu(M_ij - a M_ii) + relu(M_ji - a M_ii), M [E, E] (ERC, arXiv 2512.23447).
at::Tensor expert_router_coupling(const at::Tensor& activations, double margin);

}  // namespace moesweep::routing
