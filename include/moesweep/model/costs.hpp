// Closed forms of what a model costs: parameters, arithmetic, memory. No torch, no MPI.
#pragma once

#include <cstdint>
#include <vector>

#include "moesweep/model/config.hpp"
#include "moesweep/routing/config.hpp"

namespace moesweep::model {

/// What the closed forms need to know beside the model.
struct CostInput {
  ModelConfig model;
  routing::RoutingConfig routing;
  std::int64_t vocabulary = 0;
  std::int64_t sequence_length = 0;
  std::int64_t tokens_per_pass = 0;  ///< of one rank
  std::int64_t value_bytes = 4;      ///< of a master weight: 4, or 8 in fp64
  std::int64_t compute_bytes = 4;    ///< of an element of the matrix products: 4, 2 in bf16, 8 in fp64
  std::int64_t expert_parallel = 1, data_parallel = 1;
  std::int64_t passes = 1;  ///< of a step
  std::int64_t steps = 1;
  bool recompute = false, shard_moments = false;
};

/// Bytes of one rank on a CPU, above what the process has before the model is built (MPI and LibTorch at hand, data open). Parts that come and go
/// name a phase of a step; the peak takes the largest phase.
struct Memory {
  double parameters = 0, gradients = 0, moments = 0;  ///< always there
  double activations = 0;                             ///< what backward needs of one pass, all layers (with recomputation: inputs, and one layer)
  double loss = 0;                                    ///< logits and their gradient, beside the activations
  double experts = 0;                                 ///< rows and their gradients while experts go backward, beside the activations
  double exchange = 0;                                ///< further rows that travel or have arrived, beside those
  double reduction = 0;                               ///< sums of gradients over ranks
  double evaluation = 0;                              ///< a pass without gradients
  double decisions = 0;                               ///< deciding a step of several passes before training on it
  double framework = 0, kernels = 0;                  ///< code and work space; compiled products, in bf16
  double holes = 0;                                   ///< freed memory that malloc keeps but cannot use

  double largest_phase() const;
  double peak() const;
};

/// Matrix products of one kind, as a layer or the head asks for them: [rows, inner] by [inner, outer].
struct Product {
  double flops_per_token = 0;  ///< forward, of a rank's tokens
  double rows = 0, inner = 0, outer = 0;
};

struct Costs {
  std::int64_t parameters_total = 0;
  std::int64_t parameters_active = 0;   ///< total without the FFN experts that a token does not visit, on average
  double forward_flops_per_token = 0;   ///< matrix products: 2 per multiply-add, whole attention square
  double training_flops_per_token = 0;  ///< three times the forward ones
  std::vector<Product> products;        ///< of a pass; their sum is forward_flops_per_token
  Memory memory;                        ///< of one rank
  /// Rows that travel to experts of other ranks and back, where slots fall on ranks alike: bytes that a token's rank and its experts' ranks send for
  /// it in a training step (forward and backward, four rows a remote slot; six with recomputation) and in an evaluation (two).
  double training_exchange_bytes_per_token = 0, forward_exchange_bytes_per_token = 0;
  std::int64_t training_exchanges_per_pass = 0, forward_exchanges_per_pass = 0;  ///< that a pass starts, the counts' included
};

Costs costs_of(const CostInput& input);

}  // namespace moesweep::model
