// What a finished trial leaves behind, as named arrays: the store does not know what the numbers mean.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "moesweep/core/dtype.hpp"

namespace moesweep::store {

/// A named array of any rank, row-major. `path` is its place in the file: `steps/loss`, `evaluations/purity_expert`, ...
struct Array {
  std::string path;
  DType type = DType::f64;          ///< any; bf16 is meant for checkpoints
  std::vector<std::int64_t> shape;  ///< one entry per dimension, at least one; a dimension of 0 is allowed
  std::vector<std::byte> bytes;     ///< product(shape) elements
  std::string unit;                 ///< "nats per token", "1" for pure numbers
  std::string description;
  bool metric = false;  ///< its first dimension is evaluations: the last row's mean is the trial's value of this metric

  std::int64_t elements() const;  ///< 0 for an array without dimensions, which stands for none
};

/// Makes an array from doubles; the shape's product must be the number of values.
Array make_array(std::string path, std::vector<std::int64_t> shape, std::span<const double> values, std::string unit, std::string description,
                 bool metric = false);
Array make_array(std::string path, std::vector<std::int64_t> shape, std::span<const std::int64_t> values, std::string unit, std::string description,
                 bool metric = false);
/// The values as doubles, whatever the stored type.
std::vector<double> as_doubles(const Array& array);

struct TrialRecord {
  std::string id;
  std::string state;       ///< `done`, `failed`, `diverged`, ...
  std::string reason;      ///< a sentence when the state is not `done`; at most 16,000 bytes are stored
  std::string config;      ///< the resolved config as JSON
  std::string provenance;  ///< JSON object: versions, host, command, start, end, seeds, data digest
  std::vector<Array> arrays;

  const Array* find(const std::string& path) const;
};

/// Writes and publishes trial.h5 (serial): a reader sees nothing or the whole file. `io` errors name the file; nothing half-written stays.
void write_trial(const std::filesystem::path& path, const TrialRecord& record);

/// The same for trace.h5, which holds a record's id, config, provenance and arrays `trace/...`.
void write_trace(const std::filesystem::path& path, const TrialRecord& record);

/// Reads and validates a whole trial.h5; `corrupt` errors name the file and the dataset, a file of a newer format is refused by name.
TrialRecord read_trial(const std::filesystem::path& path);

/// True when the file is there, whole, and of that trial. Never throws for a missing or damaged file.
bool is_valid_trial(const std::filesystem::path& path, const std::string& id);

}  // namespace moesweep::store
