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

/// What was decided without gradient for one pass at one layer: made once per (step, layer, sequence), replayed by later passes.
struct Decision {
  at::Tensor expert;             ///< [T, k] i64, in the order of preference
  std::vector<at::Tensor> load;  ///< per balancing term: load shares f of its units, [units, E]; undefined where the term has no loss
  std::vector<at::Tensor> unit;  ///< per balancing term: the unit of each sequence, [sequences] i64
  at::Tensor counts;             ///< [micro-batches of the pass, E] i64, (token, slot) pairs before dropping
};

/// Who goes where. Slots are ordered by token; `offsets` [T + 1] says where each token's begin.
struct Assignment {
  at::Tensor token;                          ///< [N] i64
  at::Tensor expert;                         ///< [N] i64
  at::Tensor weight;                         ///< [N], gate weights in the graph
  at::Tensor dropped;                        ///< [N] bool, or undefined: none
  at::Tensor offsets;                        ///< [T + 1] i64
  std::int64_t fixed_k = 0;                  ///< every token has this many slots (the [T, k] view is expert.view({T, k})); 0: it varies
  std::map<std::string, at::Tensor> losses;  ///< scalars in the graph, weighted, sums over this pass's tokens over the step's tokens
};

}  // namespace moesweep::routing
