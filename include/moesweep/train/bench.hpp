// What routing costs, each strategy against plain top-k, and plain top-k against the same in eager ATen operators, on one core; and what spreading
// a trial over ranks costs.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "moesweep/comm/mpi.hpp"
#include "moesweep/core/json.hpp"
#include "moesweep/routing/config.hpp"
#include "moesweep/train/config.hpp"

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

struct CommBenchOptions {
  TrialConfig config;
  std::int64_t steps = 10;  ///< of each run, behind two that warm up
  std::int64_t repeats = 3;
  std::function<void(const std::string&)> progress;  ///< told of each run; may be empty
};

/// What it takes to spread one trial over all ranks: experts (EP), or sequences alone (DP). Medians over repeats, in which both take turns.
struct CommBench {
  /// Every rank sends every other one so many bytes; blocking, slowest rank, fastest of 20.
  struct Exchange {
    std::int64_t bytes = 0;
    double seconds = 0;
  };
  struct Layout {
    std::int64_t expert = 1, data = 1;
    double tokens_per_second = 0;
    double step = 0, dispatch = 0, wait = 0, compute = 0, gradients = 0;  ///< s a step; mean over ranks
    double sent = 0, predicted_sent = 0;                                  ///< bytes a step that a rank sends, and the cost model's
    double exchange = 0, predicted_exchange = 0;  ///< s a step beyond what DP takes for dispatch, and the cost model's with the fit below
  };
  std::vector<Exchange> exchanges;
  double latency = 0;           ///< s, of one exchange without bytes, by the fit
  double bytes_per_second = 0;  ///< that a rank sends, by the fit
  std::vector<Layout> layouts;  ///< EP over all ranks, then DP over all
  double ratio = 0;             ///< tokens a second of EP over DP, median of the repeats' ratios

  Json json() const;
};

/// Collective over `world`; every rank gets the result. The config's own layout is not used. A config that cannot be spread is a `config` error.
CommBench bench_comm(const CommBenchOptions& options, const comm::Communicator& world);
/// Its exchanges and their fit alone; nothing on one rank. Collective over `world`.
CommBench bench_exchange(const comm::Communicator& world);

struct CalibrationOptions {
  double seconds_of_product = 0.03;  ///< that each size of products is repeated, at least twice
  std::int64_t steps = 4;            ///< of each trial, behind two that warm up; the fastest counts
  bool small = false;                ///< fewer and smaller sizes: shows that it works, not what a machine does
  std::function<void(const std::string&)> progress;
};

/// What `plan` needs to know of this machine, by one thread of one rank.
struct Calibration {
  /// Products [rows, width] by [width, width], forward and both backward ones, over many matrices in turn.
  struct Product {
    Precision dtype = Precision::fp32;
    std::int64_t rows = 0, width = 0;
    double flops_per_second = 0;
  };
  struct Trial {
    TrialConfig config;
    double step_seconds = 0, evaluation_seconds = 0;  ///< least
  };
  std::vector<Product> products;
  std::vector<Trial> trials;  ///< on one rank, synthetic data
  CommBench exchange;         ///< on several ranks
};

/// Collective over `world`: every rank measures products and trials at the same time, as they train in a sweep, then all of them exchange. Gives this
/// rank's numbers, in processor time. Sets this process's threads to one. Call prepare_process() before.
Calibration calibrate(const CalibrationOptions& options, const comm::Communicator& world);

}  // namespace moesweep::train
