// Closed forms of what a model costs: parameters, arithmetic, memory. No torch, no MPI.
#pragma once

#include <cstdint>

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
  std::int64_t expert_parallel = 1;
  bool recompute = false;
};

struct Costs {
  std::int64_t parameters_total = 0;
  std::int64_t parameters_active = 0;   ///< total without the FFN experts that a token does not visit, on average
  double forward_flops_per_token = 0;   ///< matrix products: 2 per multiply-add, whole attention square
  double training_flops_per_token = 0;  ///< three times the forward ones
  std::int64_t parameter_bytes = 0;     ///< of one rank: values, gradients, two moments
  std::int64_t activation_bytes = 0;    ///< of one rank, what backward keeps of one pass plus the largest working set
  /// Rows that travel to experts of other ranks and back, where slots fall on ranks alike: bytes that a token's rank and its experts' ranks send for
  /// it in a training step (forward and backward, four rows a remote slot; six with recomputation) and in an evaluation (two).
  double training_exchange_bytes_per_token = 0, forward_exchange_bytes_per_token = 0;
  std::int64_t training_exchanges_per_pass = 0, forward_exchanges_per_pass = 0;  ///< that a pass starts, the counts' included
  std::int64_t rank_bytes() const { return parameter_bytes + activation_bytes; }
};

Costs costs_of(const CostInput& input);

}  // namespace moesweep::model
