// The record of a trial as it grows: named series, one row a step or an evaluation.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "moesweep/store/record.hpp"

namespace moesweep::train {

class Recorder {
 public:
  /// Declares a series whose rows have this shape (empty: one number). Declaring again is harmless.
  void declare(const std::string& path, std::vector<std::int64_t> row_shape, std::string unit, std::string description, bool metric = false,
               bool integers = false);
  /// The same for rows of one number a rank. A trial that goes on with another number of ranks keeps the wider rows, filled with NaN.
  void declare_by_rank(const std::string& path, std::int64_t ranks, std::string unit, std::string description);
  bool has(const std::string& path) const { return index_.contains(path); }
  /// Appends a row; the number of values must be the row shape's product.
  void append(const std::string& path, std::span<const double> row);
  void append(const std::string& path, double value) { append(path, std::span(&value, 1)); }

  /// All series as arrays [rows, row shape...], in order of declaration.
  std::vector<store::Array> arrays() const;
  /// Takes up the rows of an earlier record (a checkpoint's) whose path begins with one of `groups`, `steps/` for one. A series that the record of
  /// an earlier version lacks gets as many rows of NaN (0 for integers) as GROUP/step has, so that rows of a group stay together. A `corrupt` error,
  /// without a place, names a dataset of a wrong type or shape, with another number of rows than GROUP/step, or with an integer beyond 2^53.
  void restore(const store::TrialRecord& record, const std::vector<std::string>& groups);
  /// The last value of a series, NaN when it has no row.
  double last(const std::string& path) const;
  /// All values of a series that was declared.
  const std::vector<double>& values(const std::string& path) const;

 private:
  struct Series {
    std::string path;
    std::vector<std::int64_t> row_shape;
    std::string unit, description;
    bool metric = false, integers = false, by_rank = false;
    std::vector<double> values;
    std::int64_t row_count() const;
  };
  Series& find(const std::string& path);
  const Series& find(const std::string& path) const;
  /// What `array` holds of the series, for a group of so many rows.
  static void take(Series& series, const store::Array& array, std::int64_t rows);
  std::vector<Series> series_;
  std::map<std::string, std::size_t> index_;
};

}  // namespace moesweep::train
