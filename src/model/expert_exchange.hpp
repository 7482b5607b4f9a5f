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
  /// `work` must outlive the exchange.
  ExpertExchange(comm::Transport& transport, const std::vector<std::int64_t>& start, ExpertWork* work);

  /// First row of each of this rank's experts among the rows that arrive: [experts of the rank + 1].
  const std::vector<std::int64_t>& start() const { return start_; }

  /// Collective. Rows [N, w] of this rank's tokens to [M, w] of this rank's experts. `meanwhile`, if any, runs while rows travel.
  at::Tensor to_experts(const at::Tensor& rows, const std::function<void()>& meanwhile = {}) const;
  /// Collective. The way back: [M, w] to [N, w].
  at::Tensor from_experts(const at::Tensor& rows) const;

 private:
  /// copy(place, rows) for each of this rank's experts: where the rows of `rank` begin among the expert's, and how many there are.
  template <class Copy>
  void for_each_piece(std::size_t rank, Copy&& copy) const;
  comm::Pending begin(const at::Tensor& from, const std::vector<std::int64_t>& send, const at::Tensor& to, const std::vector<std::int64_t>& receive,
                      const char* what) const;
  void wait(comm::Pending& pending) const;

  comm::Transport* transport_;
  ExpertWork* work_;
  std::size_t ranks_, me_, mine_;              ///< mine_: experts of the rank
  std::vector<std::int64_t> sent_, received_;  ///< rows to and from each rank
  std::vector<std::int64_t> start_;
  std::vector<std::int64_t> place_, count_;  ///< [rank][expert of this rank]: where its rows begin among those of this rank's experts; how many
  std::int64_t own_first_ = 0;               ///< where, among the rows of this rank's tokens, those of its own experts begin
};

}  // namespace moesweep::model
