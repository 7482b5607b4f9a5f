// Checkpoints: one HDF5 file of logical arrays, written collectively, each rank giving its part of each.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "moesweep/comm/mpi.hpp"
#include "moesweep/store/record.hpp"

namespace moesweep::store {

/// This rank's part of a logical array: elements [first, first + count) of its row-major flattening; count may be 0.
struct Piece {
  std::string name;  ///< `parameters/layers.0.router`, `moments/first/...`, `state/...`
  DType type = DType::f32;
  std::vector<std::int64_t> shape;  ///< of the whole logical array; empty for a scalar
  std::int64_t first = 0, count = 0;
  const void* data = nullptr;
};

/// Collective over `communicator`: all ranks list the same names, types and shapes in the same order, and their parts tile each array.
/// `header` is JSON (config, step, ...). `record` is the trial's record so far (rank 0's is written). Published by rename.
/// On any rank's failure every rank throws, and the old file stays.
void write_checkpoint(const comm::Communicator& communicator, const std::filesystem::path& path, const std::string& header,
                      const std::vector<Piece>& pieces, const TrialRecord& record);

/// An open checkpoint. Opening and reading are collective over the communicator that opened it, which must outlive the reader; opening
/// checks the digest, ranks sharing the reading. Errors are the same on every rank. Closing communicates nothing.
class CheckpointReader {
 public:
  CheckpointReader(const comm::Communicator& communicator, const std::filesystem::path& path);
  ~CheckpointReader();
  CheckpointReader(CheckpointReader&&) noexcept;
  CheckpointReader& operator=(CheckpointReader&&) noexcept;

  const std::string& header() const;
  const TrialRecord& record() const;
  /// Names of all arrays, sorted.
  std::vector<std::string> names() const;
  bool has(const std::string& name) const;
  /// The array's logical shape; a `corrupt` error when there is none of that name.
  std::vector<std::int64_t> shape(const std::string& name) const;
  /// The type that it is stored in.
  DType type(const std::string& name) const;
  /// Collective. Reads elements [first, first + count) into `data`; the type must be the stored one.
  void read(const std::string& name, DType type, std::int64_t first, std::int64_t count, void* data) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace moesweep::store
