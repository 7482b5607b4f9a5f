// What a router is given and what it gives back.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace moesweep::routing {

/// The tokens of one pass on this rank: whole sequences, one behind the other, in the order of the global batch.
struct TokenLayout {
  std::int64_t sequences = 0;
  std::int64_t length = 0;                 ///< tokens of a sequence, where all are of one length
  std::vector<std::int64_t> start;         ///< [sequences + 1], first token of each sequence; empty: all are of `length`
  std::int64_t micro_batch_sequences = 1;  ///< a unit of statistics: consecutive groups of the global batch
  std::vector<std::int64_t> index;         ///< [sequences], index of each in the global batch
  std::vector<std::int64_t> domain;        ///< [sequences]
  at::Tensor ids;                          ///< [T] i64, token ids; undefined where nobody needs them
  at::Tensor mask;                         ///< [T] bool, true where the token counts; undefined = all count
  std::int64_t seed = 0;
  std::int64_t step = 0;
  std::int64_t record = 0;       ///< number under which assignments are recorded and replayed: the step, or -1 - step for validation after it
  std::int64_t step_tokens = 0;  ///< counting tokens of the whole step, over all passes and ranks
  /// Where each token draws, [T], when that is not its own place (`decision_layout`); empty: its own.
  std::vector<std::int64_t> place_index, place_position;

  std::int64_t tokens() const { return start.empty() ? sequences * length : start.back(); }
  std::int64_t begin_of(std::int64_t sequence) const { return start.empty() ? sequence * length : start[static_cast<std::size_t>(sequence)]; }
  /// The sequence of each token, from 0 within the pass: [T] i64.
  at::Tensor sequence_of_token() const;
  /// A value per sequence spread to its tokens: `of_sequence` [sequences, ...] -> [T, ...].
  at::Tensor spread(const at::Tensor& of_sequence) const;
  /// Where each token's random numbers are drawn: index of its sequence in the global batch and position in it, each [T].
  std::vector<std::int64_t> index_of_token() const;
  std::vector<std::int64_t> position_of_token() const;
};

/// Router logits of one pass at one layer: [T, E], fp32 or fp64, in the autograd graph when training. With pooled granularities every
/// token holds its decision's logits already (`pool_rows`).
struct Scores {
  at::Tensor logits;
  std::int64_t layer = 0;  ///< MoE layer, from 0
  const TokenLayout* tokens = nullptr;
  at::Tensor noise_logits;  ///< [T, E] logits of the learned noise scale (noise.learned), else undefined
};

/// (token, expert) pairs ordered by token; the number of experts of a token may vary. Masked tokens have none.
struct Slots {
  at::Tensor token;          ///< [N] i64
  at::Tensor expert;         ///< [N] i64, a token's in its order of preference (ascending where a selection has none)
  at::Tensor dropped;        ///< [N] bool, or undefined: none
  at::Tensor offsets;        ///< [T + 1] i64: token t's slots are [offsets[t], offsets[t + 1])
  std::int64_t fixed_k = 0;  ///< every token has this many slots; 0: it varies

  /// The experts of each token, [T, fixed_k] i64, in the order of preference; only with a fixed k.
  at::Tensor by_token() const { return expert.view({expert.numel() / fixed_k, fixed_k}); }
};

/// Slots of a choice of k experts for every token: `expert` [T, k] i64; masked tokens (`mask` [T] bool, may be undefined) get none.
Slots slots_of(const at::Tensor& expert, const at::Tensor& mask = {});
/// Slots of a choice by flags: `chosen` [T, E] bool, a token's experts ascending.
Slots slots_of_flags(const at::Tensor& chosen, const at::Tensor& mask = {});

/// What a balancing term knows of its units, over all ranks and passes that a unit spans.
struct UnitStatistics {
  at::Tensor totals;      ///< [units, C] fp64, what the term summed over each unit's tokens; undefined where it sums nothing
  at::Tensor tokens;      ///< [units] fp64, counting tokens that the totals are over
  at::Tensor own_tokens;  ///< [units] fp64, counting tokens of the unit itself: fewer than `tokens` where totals reach back in time
  at::Tensor unit;        ///< the unit of each sequence, [sequences] i64
};

/// What was decided without gradient for one pass at one layer: made once per (step, layer, sequence), replayed by later passes.
struct Decision {
  Slots slots;
  std::vector<UnitStatistics> terms;  ///< one per balancing term; empty in evaluation, which has no losses
  at::Tensor counts;                  ///< [micro-batches of the pass, E] i64, (token, slot) pairs before dropping
  at::Tensor noise;                   ///< [T, E] draws, kept for `apply` where the step is one pass; undefined: it draws them again
};

/// Who goes where, with what weight.
struct Assignment {
  Slots slots;
  at::Tensor weight;                         ///< [N], gate weights in the graph
  std::map<std::string, at::Tensor> losses;  ///< by name: scalars in the graph, weighted, sums over this pass's tokens over the step's tokens
  /// Of terms whose product over layers comes last (convention transformers): load and probability of each unit, to be averaged over layers.
  struct Pooled {
    std::string loss;
    double factor = 0;         ///< weight * E * k
    at::Tensor load;           ///< [units, E] shares
    at::Tensor probabilities;  ///< [units, E] sums over the pass's tokens over the step's tokens, in the graph
  };
  std::vector<Pooled> pooled;
};

/// What a decision is for.
enum class Mode {
  train,     ///< an optimizer step: losses are wanted, balancing state accumulates
  evaluate,  ///< the training reading: the routing in force in training, its balancing included, without noise
  greedy,    ///< the greedy reading: what inference does without seeing other tokens; persistent state (biases, cut-offs) stays
};

}  // namespace moesweep::routing
