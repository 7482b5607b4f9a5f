// What a router is given and what it gives back.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace moesweep::routing {

/// The tokens of one pass on this rank: whole sequences of one length, in the order of the global batch.
struct TokenLayout {
  std::int64_t sequences = 0;
  std::int64_t length = 0;                 ///< tokens of a sequence
  std::int64_t micro_batch_sequences = 1;  ///< a unit of statistics: consecutive groups of the global batch
  std::vector<std::int64_t> index;         ///< [sequences], index of each in the global batch
  std::vector<std::int64_t> domain;        ///< [sequences]
  at::Tensor mask;                         ///< [T] bool, true where the token counts; undefined = all count
  std::int64_t seed = 0;
  std::int64_t step = 0;
  std::int64_t step_tokens = 0;  ///< counting tokens of the whole step, over all passes and ranks

  std::int64_t tokens() const { return sequences * length; }
};

/// Router logits of one pass at one layer: [T, E], fp32 or fp64, in the autograd graph when training.
struct Scores {
  at::Tensor logits;
  std::int64_t layer = 0;  ///< MoE layer, from 0
  const TokenLayout* tokens = nullptr;
};

/// (token, expert) pairs ordered by token; the number of experts of a token may vary.
struct Slots {
  at::Tensor token;          ///< [N] i64
  at::Tensor expert;         ///< [N] i64
  at::Tensor dropped;        ///< [N] bool, or undefined: none
  at::Tensor offsets;        ///< [T + 1] i64: token t's slots are [offsets[t], offsets[t + 1])
  std::int64_t fixed_k = 0;  ///< every token has this many slots; 0: it varies

  /// The experts of each token, [T, fixed_k] i64, in the order of preference; only with a fixed k.
  at::Tensor by_token() const { return expert.view({expert.numel() / fixed_k, fixed_k}); }
};

/// Slots of a choice of k experts for every token: `expert` [T, k] i64.
Slots slots_of(const at::Tensor& expert);

/// What a balancing term's loss needs to know of its units.
struct UnitStatistics {
  at::Tensor load;  ///< shares f of each unit, [units, E] fp64; undefined where the term has no loss
  at::Tensor unit;  ///< the unit of each sequence, [sequences] i64
};

/// What was decided without gradient for one pass at one layer: made once per (step, layer, sequence), replayed by later passes.
struct Decision {
  Slots slots;
  std::vector<UnitStatistics> terms;  ///< one per balancing term; empty in evaluation, which has no losses
  at::Tensor counts;                  ///< [micro-batches of the pass, E] i64, (token, slot) pairs before dropping
};

/// Who goes where, with what weight.
struct Assignment {
  Slots slots;
  at::Tensor weight;                         ///< [N], gate weights in the graph
  std::map<std::string, at::Tensor> losses;  ///< `balance`, `z`: scalars in the graph, weighted, sums over this pass's tokens over the step's tokens
};

/// What a decision is for.
enum class Mode {
  train,     ///< an optimizer step: losses are wanted, balancing state accumulates
  evaluate,  ///< the training reading: the routing in force in training, its balancing included, without noise
  greedy,    ///< the greedy reading: what inference does without seeing other tokens; persistent state (a bias) stays
};

}  // namespace moesweep::routing
