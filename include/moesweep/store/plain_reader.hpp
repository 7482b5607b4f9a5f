// The yardstick of `moesweep bench store`: what a small C program does that reads trial files and checks nothing but what HDF5 checks.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

namespace moesweep::store {

struct PlainReading {
  std::int64_t files = 0, datasets = 0, bytes = 0;  ///< bytes of the arrays
};

/// Opens each file, visits its objects and reads every dataset whole, by plain HDF5 C calls with default properties, serially.
/// An `io` error names the file that cannot be read.
PlainReading read_plainly(std::span<const std::filesystem::path> files);

}  // namespace moesweep::store
