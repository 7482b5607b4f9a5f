// Trial records and folders for the tests of the store.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include "moesweep/store/record.hpp"

namespace moesweep::store::samples {

/// An empty folder that goes when the test ends.
class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "moesweep-store-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = name;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// True in a full run of the tests: long proofs are then whole, else about a tenth of them.
inline bool full() {
  const char* value = std::getenv("MOESWEEP_FULL");
  return value != nullptr && std::string(value) == "1";
}

inline std::vector<std::string> names_in(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

inline std::string slurp(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void spill(const std::filesystem::path& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

inline Array numbers(std::string path, DType type, std::vector<std::int64_t> shape, int seed) {
  Array array{std::move(path), type, std::move(shape), {}, "1", "numbers for a test", seed % 2 == 0};
  std::int64_t elements = 1;
  for (const auto dimension : array.shape) elements *= dimension;
  array.bytes.resize(static_cast<std::size_t>(elements) * size_of(type));
  for (std::int64_t i = 0; i < elements; ++i) {
    const auto put = [&](auto value) { std::memcpy(array.bytes.data() + static_cast<std::size_t>(i) * sizeof value, &value, sizeof value); };
    const std::int64_t n = (i * 7919 + seed * 104729) % 1000003 - 500000;
    switch (type) {
      case DType::f64: put(static_cast<double>(n) / 3.0); break;
      case DType::f32: put(static_cast<float>(n) / 3.0F); break;
      case DType::i64: put(n * 1000003); break;
      case DType::i32: put(static_cast<std::int32_t>(n)); break;
      case DType::bf16: put(static_cast<std::uint16_t>(n & 0x3fff)); break;
      case DType::u8: put(static_cast<std::uint8_t>(n)); break;
    }
  }
  return array;
}

/// A finished trial; its shapes and its set of arrays depend on `index`.
inline TrialRecord trial(int index) {
  TrialRecord record;
  record.id = "id" + std::string(index < 10 ? "00" : index < 100 ? "0" : "") + std::to_string(index);
  record.state = index % 5 == 3 ? "diverged" : "done";
  record.reason = index % 5 == 3 ? "loss is NaN at step 7, naïvely" : "";
  record.config = "{\"seed\": " + std::to_string(index) + "}";
  record.provenance = "{\"host\": \"node" + std::to_string(index % 3) + "\"}";
  const std::int64_t steps = 5 + index % 4, evaluations = 1 + index % 3, layers = 1 + index % 2;
  record.arrays.push_back(numbers("steps/loss", DType::f64, {steps}, index));
  record.arrays.push_back(numbers("steps/step", DType::i64, {steps}, 1));
  record.arrays.push_back(numbers("evaluations/counts", DType::i64, {evaluations, layers, 3, 4}, 3));
  record.arrays.push_back(numbers("evaluations/purity_expert", DType::f32, {evaluations, layers}, 2 * index));
  if (index % 3 == 1) record.arrays.push_back(numbers("evaluations/greedy.loss", DType::f64, {evaluations}, 2 * index));
  if (index % 4 == 2) record.arrays.push_back(numbers("steps/empty", DType::i32, {0, 3}, 5));
  return record;
}

inline void expect_equal(const Array& a, const Array& b) {
  EXPECT_EQ(a.path, b.path);
  EXPECT_EQ(a.type, b.type) << a.path;
  EXPECT_EQ(a.shape, b.shape) << a.path;
  EXPECT_TRUE(a.bytes == b.bytes) << a.path;
  EXPECT_EQ(a.unit, b.unit) << a.path;
  EXPECT_EQ(a.description, b.description) << a.path;
  EXPECT_EQ(a.metric, b.metric) << a.path;
}

inline bool equal(const TrialRecord& a, const TrialRecord& b) {
  if (a.id != b.id || a.state != b.state || a.reason != b.reason || a.config != b.config || a.provenance != b.provenance ||
      a.arrays.size() != b.arrays.size())
    return false;
  for (const auto& x : a.arrays) {
    const Array* y = b.find(x.path);
    if (!y || x.type != y->type || x.shape != y->shape || x.bytes != y->bytes || x.unit != y->unit || x.description != y->description ||
        x.metric != y->metric)
      return false;
  }
  return true;
}

inline void expect_equal(const TrialRecord& a, const TrialRecord& b) {
  EXPECT_EQ(a.id, b.id);
  EXPECT_EQ(a.state, b.state);
  EXPECT_EQ(a.reason, b.reason);
  EXPECT_EQ(a.config, b.config);
  EXPECT_EQ(a.provenance, b.provenance);
  EXPECT_EQ(a.arrays.size(), b.arrays.size());
  for (const auto& array : a.arrays) {
    const Array* other = b.find(array.path);
    EXPECT_NE(other, nullptr) << array.path;
    if (other) expect_equal(array, *other);
  }
}

}  // namespace moesweep::store::samples
