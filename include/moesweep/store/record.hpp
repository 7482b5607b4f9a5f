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

/// A published file as its writer knows it. The journal keeps it with the line `ended`: bytes that are known need no check in a child process.
struct Published {
  std::string sha256;       ///< of the file's bytes, 64 hexadecimal digits; empty: not known
  std::string digest;       ///< of its content: the file's attribute `digest`
  std::int64_t bytes = -1;  ///< its length
};

/// Writes and publishes trial.h5 (serial): a reader sees nothing or the whole file. `io` errors name the file; nothing half-written stays.
Published write_trial(const std::filesystem::path& path, const TrialRecord& record);

/// The same for trace.h5, which holds a record's id, config, provenance and arrays `trace/...`.
void write_trace(const std::filesystem::path& path, const TrialRecord& record);

/// Reads and validates a whole trial.h5; `corrupt` errors name the file and the dataset, a file of a newer format is refused by name. A file whose
/// bytes are not those of `published` is first read by a child process with limits of memory and time.
TrialRecord read_trial(const std::filesystem::path& path, const Published& published = {});

/// What stands at the place of a trial's file.
struct TrialFinding {
  enum class Kind { absent, valid, damaged, unreadable };
  Kind kind = Kind::absent;
  TrialRecord record;   ///< when valid
  std::string why;      ///< why it is damaged, or cannot be read just now
  Published published;  ///< when valid

  bool valid() const { return kind == Kind::valid; }
};

/// Looks, and throws for nothing that stands there. `damaged`: its bytes were read and are wrong, or of another trial. `unreadable`: they could not
/// be read just now (permission, EIO, ESTALE, too many open files, memory), or the file is of a newer moesweep; it may be whole, and must be left
/// alone.
TrialFinding find_trial(const std::filesystem::path& path, const std::string& id, const Published& published = {});

}  // namespace moesweep::store
