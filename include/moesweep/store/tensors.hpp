// Named arrays of any plain HDF5 file, whoever wrote it; and files of arrays for others to read.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "moesweep/store/record.hpp"

namespace moesweep::store {

// Whoever wrote it: contiguous, compact and chunked datasets are read, virtual and external ones and links never; sizes are checked before
// anything is allocated, and the file is first read by a child process with limits of memory and time.

/// The names of all datasets, sorted, without a leading slash. `io` and `corrupt` errors name the file.
std::vector<std::string> tensor_names(const std::filesystem::path& path);

/// One dataset. Integers of any width and booleans become i64; floating-point numbers of at most 32 bits f32, wider ones f64. A scalar has the
/// shape [1]. `data` errors: there is no such dataset, it holds no numbers, a NaN or an integer beyond 64 bits, or it has not `dimensions`
/// dimensions (where given). A damaged file is a `corrupt` error.
Array read_tensor(const std::filesystem::path& path, const std::string& name, std::optional<std::size_t> dimensions = {});

/// All datasets that hold numbers, in the order of `tensor_names`; texts are left out. Errors as for one.
std::vector<Array> read_tensors(const std::filesystem::path& path);

/// Writes the arrays, chunked with fletcher32 and described, beside root attributes (texts), and publishes the file: a reader sees nothing or
/// the whole. The bytes depend on nothing but the arguments. `io` errors name the file.
void write_tensors(const std::filesystem::path& path, const std::map<std::string, std::string>& attributes, const std::vector<Array>& arrays);

}  // namespace moesweep::store
