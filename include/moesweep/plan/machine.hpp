// How fast a machine is: plain defaults, or what `moesweep bench calibrate` measured there. No torch, MPI or HDF5.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "moesweep/core/json.hpp"
#include "moesweep/train/config.hpp"

namespace moesweep::plan {

/// Sustained floating-point operations per second of one rank with one thread in training, for estimates without a calibration.
/// A plain default for a current server core in fp32 on small models; it is not a measurement of this machine.
inline constexpr double kDefaultFlopsPerSecond = 60e9;

/// What an exchange of rows between the ranks that share experts takes, beside its bytes, and how many bytes a rank sends a second: plain defaults
/// for ranks of one node over shared memory; `moesweep bench comm` and `bench calibrate` on several ranks measure them.
struct ExchangeSpeed {
  double latency_seconds = 50e-6;
  double bytes_per_second = 2e9;
};

/// Products [rows, width] by [width, width], forward and backward, by one thread.
struct ProductSpeed {
  double rows = 0, width = 0, flops_per_second = 0;
};

/// What a step takes beside its products, in one precision.
struct StepSpeed {
  std::vector<ProductSpeed> products;     ///< every pair of some rows and some widths; empty: kDefaultFlopsPerSecond, and nothing beside it
  double seconds_per_kept_byte = 0;       ///< of what a pass keeps for backward and works on (model::Memory)
  double seconds_per_parameter_byte = 0;  ///< of parameters, gradients and moments, once a step
  double seconds_per_layer = 0;           ///< of each pass
  double seconds_per_step = 0;
  double evaluation_share = 1.0 / 3;  ///< of what a training pass takes beside its products and parameters, that one without gradients takes

  /// Between the measured sizes by powers; beyond them, the nearest.
  double flops_per_second(double rows, double width) const;
};

struct MachineSpeed {
  StepSpeed fp32, bf16;  ///< fp64 takes twice the time of fp32
  ExchangeSpeed exchange;
  std::string cpu, date, version;  ///< of the calibration; empty: plain defaults
  std::string file;                ///< that it was read from
  int threads = 1;
  bool exchange_measured = false;

  bool measured() const { return !fp32.products.empty(); }
  /// "time by FILE, measured on CPU", or that it is a plain default.
  std::string in_words() const;
  Json json() const;
};

/// A trial that was measured: least seconds of a step and of an evaluation.
struct MeasuredTrial {
  train::TrialConfig config;
  double step_seconds = 0, evaluation_seconds = 0;
};
/// Fits what is beside the products, none of it negative, by least squares of relative errors; the products' speeds are given. Trials of one rank.
void fit(StepSpeed& speed, std::span<const MeasuredTrial> trials);

/// $MOESWEEP_MACHINE, else moesweep/machine.json in $XDG_CONFIG_HOME, else in ~/.config; empty where none of them is set.
std::filesystem::path machine_file();
/// What the machine's file says; plain defaults where there is none. A damaged file, or a missing one that $MOESWEEP_MACHINE names, is an error
/// that names it and says what to do.
MachineSpeed machine_speed();
/// A `corrupt` or `io` error names the file.
MachineSpeed read_machine(const std::filesystem::path& file);
/// Makes the folder, and publishes the file.
void write_machine(const std::filesystem::path& file, const MachineSpeed& machine);

}  // namespace moesweep::plan
