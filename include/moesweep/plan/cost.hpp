// What a trial costs: time, memory, disk. Closed forms over the config; no torch, MPI or HDF5.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "moesweep/core/json.hpp"
#include "moesweep/model/costs.hpp"
#include "moesweep/train/config.hpp"

namespace moesweep::plan {

/// Sustained floating-point operations per second of one rank with one thread in training, used for every estimate of time.
/// A plain default for a current server core in fp32 on small models; it is not a measurement of this machine.
inline constexpr double kDefaultFlopsPerSecond = 60e9;

/// What an exchange of rows between the ranks that share experts takes, beside its bytes, and how many bytes a rank sends a second: plain defaults
/// for ranks of one node over shared memory; `moesweep bench comm` measures them.
struct ExchangeSpeed {
  double latency_seconds = 50e-6;
  double bytes_per_second = 2e9;
};

struct TrialCost {
  std::int64_t ranks = 1;              ///< of its gang: parallel.expert * parallel.data
  std::int64_t parameters_total = 0;   ///< of the model
  std::int64_t parameters_active = 0;  ///< that one token meets
  std::int64_t training_tokens = 0;
  double flops = 0.0;             ///< of training and evaluation, whole gang
  double exchanged_bytes = 0.0;   ///< that each rank sends for routed rows, in the whole trial, on average
  double exchange_seconds = 0.0;  ///< estimated, of its seconds
  double seconds = 0.0;           ///< estimated, on its gang
  double memory_bytes = 0.0;      ///< estimated, per rank, above the idle process; the peak of its parts
  model::Memory memory;           ///< the parts
  double disk_bytes = 0.0;        ///< estimated, of what it leaves behind and of one checkpoint

  Json json() const;
};

TrialCost cost_of(const train::TrialConfig& config, double flops_per_second = kDefaultFlopsPerSecond, const ExchangeSpeed& exchange = {});

/// Spread of model sizes in a sweep: the largest number of total parameters over the smallest; 1 when all are equal or there are none.
double parameter_ratio(std::span<const TrialCost> costs);

}  // namespace moesweep::plan
