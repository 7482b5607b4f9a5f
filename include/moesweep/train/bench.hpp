// What routing costs: each strategy against plain top-k, and plain top-k against the same in eager ATen operators, on one core.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "moesweep/core/json.hpp"
#include "moesweep/routing/config.hpp"

namespace moesweep::train {

struct RoutingBenchOptions {
  std::int64_t tokens = 16384;
  std::vector<std::int64_t> experts{8, 64, 256};
  std::int64_t repeats = 5;
  std::vector<std::pair<std::string, routing::RoutingConfig>> routers;
  std::function<void(const std::string&)> progress;  ///< told of each number of experts; may be empty
};

/// Times in nanoseconds per token, medians over the repeats, which alternate with those of plain top-k.
struct RoutingBench {
  struct Strategy {
    std::string router;
    std::int64_t experts = 0, top_k = 0, repeats = 0;
    double forward = 0;          ///< begin_step, decide, apply
    double backward = 0;         ///< of weights (random upstream) and losses to logits
    double plain = 0;            ///< plain top-k with softmax over the chosen, forward and backward, at the same k
    double ratio = 0;            ///< (forward + backward) / plain
    double bytes_per_logit = 0;  ///< most memory of tensors beyond the logits in a forward and backward pass, over T E
  };
  /// Logits to weights, counts and the permutation of slots by expert, and back from the weights to the logits.
  struct AgainstEager {
    std::int64_t experts = 0, top_k = 0;
    double ours = 0, eager = 0, speedup = 0;
  };
  struct Skipped {
    std::string router;
    std::int64_t experts = 0;
    std::string reason;
  };
  std::vector<Strategy> strategies;
  std::vector<AgainstEager> plain_top_k;
  std::vector<Skipped> skipped;

  Json json() const;
};

/// Sets the threads of this process to one. Logits are standard normal numbers in fp32, shifted for `relu` so that top_k experts are active on
/// average. A strategy that takes long is repeated less, at least once.
RoutingBench bench_routing(const RoutingBenchOptions& options);

}  // namespace moesweep::train
