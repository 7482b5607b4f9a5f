// For tests of files that ranks write together: a folder for all ranks, rows of an aggregate, arrays of a checkpoint.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "moesweep/comm/mpi.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/store/aggregate.hpp"
#include "moesweep/store/checkpoint.hpp"
#include "samples.hpp"

namespace moesweep::store::samples {

/// One folder for all ranks; rank 0 makes and removes it.
class Shared {
 public:
  Shared() : world(comm::Communicator::world()) {
    if (world.rank() == 0) folder_ = std::make_unique<Folder>();
    path_ = world.broadcast(folder_ ? folder_->path().string() : "", 0, "test folder");
  }
  ~Shared() { world.barrier("end of test"); }
  Shared(const Shared&) = delete;
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  void on_first(const std::function<void()>& work) const {
    if (world.rank() == 0) work();
    world.barrier("rank 0 worked");
  }
  std::vector<std::string> names() const { return names_in(path_); }

  comm::Communicator world;

 private:
  std::unique_ptr<Folder> folder_;
  std::filesystem::path path_;
};

/// The error that every rank must throw alike, and say so when `work` is collective.
inline std::string failure(const std::function<void()>& work, ErrorKind kind, bool collective = true) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(name_of(error.kind()), name_of(kind)) << error.what();
    EXPECT_EQ(error.on_every_rank(), collective) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error was thrown";
  return {};
}

inline const SweepHeader kHeader{"a-study", "{\"sweep\": \"a-study\"}", "{\"version\": 1}"};

/// Rows of `trials` trials, every seventh without a file; the files are written by rank 0.
inline std::vector<SweepRow> make_rows(const Shared& shared, int trials) {
  std::vector<SweepRow> rows;
  shared.on_first([&] {
    for (int i = 0; i < trials; ++i)
      if (i % 7 != 6) write_trial(shared / ("trial" + std::to_string(i) + ".h5"), trial(i));
  });
  for (int i = 0; i < trials; ++i) {
    const auto record = trial(i);
    SweepRow row{record.id, record.state, record.reason, {}, {}, record.config, record.provenance, shared / ("trial" + std::to_string(i) + ".h5")};
    row.axes["seed"] = std::to_string(i);
    if (i % 2 == 0) row.axes["routing.balance.scope"] = "\"micro_bätch\"";
    row.metrics["loss"] = 3.0 / (i + 1);
    if (i % 3 == 1) row.metrics["greedy.loss"] = -i;
    if (i % 7 == 6) {
      row.state = "failed";
      row.reason = "no file";
      row.trial_file.clear();
    }
    rows.push_back(row);
  }
  return rows;
}

inline void expect_sound(const std::filesystem::path& path, std::size_t rows) {
  const auto verification = verify(path);
  for (const auto& problem : verification.problems) ADD_FAILURE() << problem;
  EXPECT_EQ(verification.rows, rows);
  EXPECT_EQ(verification.digest.size(), 64U);
}

struct Logical {
  std::string name;
  Array values;
  std::vector<std::int64_t> shape;
};

inline std::vector<Logical> logical_arrays() {
  std::vector<Logical> arrays;
  const auto add = [&](const std::string& name, DType type, std::vector<std::int64_t> shape) {
    auto values = numbers(name, type, shape.empty() ? std::vector<std::int64_t>{1} : shape, static_cast<int>(arrays.size()));
    arrays.push_back({name, std::move(values), std::move(shape)});
  };
  add("parameters/layers.0.router", DType::f32, {8, 33});
  add("parameters/layers.0.experts", DType::f32, {4, 129, 700});
  add("parameters/embedding", DType::bf16, {1000, 17});
  add("moments/first/embedding", DType::f64, {301});
  add("state/step", DType::i64, {});
  add("state/empty", DType::i32, {0, 3});
  add("state/bytes", DType::u8, {5});
  return arrays;
}

/// Cuts every array unevenly over `ranks`, some parts empty.
inline std::vector<Piece> pieces_of(const std::vector<Logical>& arrays, int rank, int ranks) {
  std::vector<Piece> pieces;
  for (std::size_t a = 0; a < arrays.size(); ++a) {
    const std::int64_t elements = static_cast<std::int64_t>(arrays[a].values.bytes.size() / size_of(arrays[a].values.type));
    const auto cut = [&](int r) {
      if (r <= 0) return std::int64_t{0};
      if (r >= ranks) return elements;
      return std::min(elements, elements * r / ranks + static_cast<std::int64_t>(a % 2 == 0 ? 3 : 0));
    };
    const std::int64_t first = cut(rank), count = cut(rank + 1) - first;
    pieces.push_back({arrays[a].name, arrays[a].values.type, arrays[a].shape, first, count,
                      arrays[a].values.bytes.data() + static_cast<std::size_t>(first) * size_of(arrays[a].values.type)});
  }
  return pieces;
}

}  // namespace moesweep::store::samples
