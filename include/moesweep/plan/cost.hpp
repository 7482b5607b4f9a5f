// What a trial costs: time, memory, disk. Closed forms over the config; no torch, MPI or HDF5.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "moesweep/core/json.hpp"
#include "moesweep/model/costs.hpp"
#include "moesweep/plan/machine.hpp"
#include "moesweep/train/config.hpp"

namespace moesweep::plan {

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
  /// As `json` gave it, so that all who share a plan have the same numbers; parts that an earlier version did not write are 0. Throws what the
  /// JSON library throws where a number is missing.
  static TrialCost of_json(const Json& json);
};

TrialCost cost_of(const train::TrialConfig& config, const MachineSpeed& speed = {});

/// Seconds by part, of one rank: what `cost_of` sums up, and `fit` looks at.
struct StepWork {
  double product_seconds = 0;                                            ///< of a training step
  double evaluation_product_seconds = 0;                                 ///< of an evaluation, all its readings
  double kept_bytes = 0, parameter_bytes = 0, layers = 0;                ///< of a training step
  double evaluation_kept_bytes = 0, evaluation_layers = 0, batches = 0;  ///< of an evaluation, all its readings
};
StepWork work_of(const train::TrialConfig& config, const StepSpeed& speed);

/// Spread of model sizes in a sweep: the largest number of total parameters over the smallest; 1 when all are equal or there are none.
double parameter_ratio(std::span<const TrialCost> costs);

}  // namespace moesweep::plan
