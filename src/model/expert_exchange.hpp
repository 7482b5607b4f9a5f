// The way of routed rows between ranks that share a layer's experts: to the rank that holds the expert, and back.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "moesweep/comm/transport.hpp"
#include "moesweep/model/moe_model.hpp"

namespace moesweep::model {

/// One layer's exchange in one pass. Rows lie by expert on both sides: where their tokens are, all experts'; where the experts are, those of the
/// rank alone, each with the rows of rank 0 first. Without other ranks rows are given back as they are.
class ExpertExchange {
 public:
  /// Collective: the numbers of rows are exchanged, once. `start` [E + 1]: first row of each expert among this rank's rows. The transport and
  /// `seconds` must outlive the exchange.
  ExpertExchange(comm::Transport& transport, const std::vector<std::int64_t>& start, ExpertSeconds* seconds);

  /// First row of each of this rank's experts among the rows that arrive: [experts of the rank + 1].
  const std::vector<std::int64_t>& start() const { return start_; }

  /// Collective. Rows [N, w] of this rank's tokens to [M, w] of this rank's experts. `meanwhile`, if any, runs while rows travel.
  at::Tensor to_experts(const at::Tensor& rows, const std::function<void()>& meanwhile = {}) const;
  /// Collective. The way back: [M, w] to [N, w].
  at::Tensor from_experts(const at::Tensor& rows) const;

 private:
  at::Tensor exchange(const at::Tensor& rows, const std::vector<std::int64_t>& sent, const std::vector<std::int64_t>& received, const char* what,
                      const std::function<void()>& meanwhile) const;

  comm::Transport* transport_;
  ExpertSeconds* seconds_;
  std::vector<std::int64_t> sent_, received_;  ///< rows to and from each rank
  std::vector<std::int64_t> start_;
  at::Tensor place_;    ///< [M] of each row by expert, its place by rank; undefined where both orders are one
  at::Tensor inverse_;  ///< [M] the other way round
};

}  // namespace moesweep::model
