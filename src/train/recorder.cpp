// See recorder.hpp.
#include "recorder.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "moesweep/core/error.hpp"

namespace moesweep::train {

namespace {
std::int64_t product(const std::vector<std::int64_t>& shape) {
  std::int64_t count = 1;
  for (const auto extent : shape) count *= extent;
  return count;
}

std::string in_words(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const auto extent : shape) text += (text.empty() ? "" : ", ") + std::to_string(extent);
  return "[" + text + "]";
}
}  // namespace

std::int64_t Recorder::Series::row_count() const { return static_cast<std::int64_t>(values.size()) / std::max<std::int64_t>(1, product(row_shape)); }

void Recorder::declare(const std::string& path, std::vector<std::int64_t> row_shape, std::string unit, std::string description, bool metric,
                       bool integers) {
  if (!index_.try_emplace(path, series_.size()).second) return;
  series_.push_back({path, std::move(row_shape), std::move(unit), std::move(description), metric, integers, false, {}});
}

void Recorder::declare_by_rank(const std::string& path, std::int64_t ranks, std::string unit, std::string description) {
  declare(path, {ranks}, std::move(unit), std::move(description));
  find(path).by_rank = true;
}

Recorder::Series& Recorder::find(const std::string& path) { return const_cast<Series&>(std::as_const(*this).find(path)); }

const Recorder::Series& Recorder::find(const std::string& path) const {
  const auto found = index_.find(path);
  MOESWEEP_ASSERT(found != index_.end(), "no series " + path);
  return series_[found->second];
}

void Recorder::append(const std::string& path, std::span<const double> row) {
  Series& series = find(path);
  const auto size = static_cast<std::size_t>(product(series.row_shape));
  MOESWEEP_ASSERT(row.size() == size || (series.by_rank && row.size() < size), "a row of the wrong size for " + path);
  series.values.insert(series.values.end(), row.begin(), row.end());
  series.values.resize(series.values.size() + size - row.size(), std::numeric_limits<double>::quiet_NaN());
}

std::vector<store::Array> Recorder::arrays() const {
  std::vector<store::Array> arrays;
  for (const Series& series : series_) {
    std::vector<std::int64_t> shape{series.row_count()};
    shape.insert(shape.end(), series.row_shape.begin(), series.row_shape.end());
    if (series.integers) {
      std::vector<std::int64_t> values;
      for (const double value : series.values) values.push_back(std::llround(value));
      arrays.push_back(store::make_array(series.path, shape, std::span<const std::int64_t>(values), series.unit, series.description, series.metric));
    } else {
      arrays.push_back(store::make_array(series.path, shape, std::span<const double>(series.values), series.unit, series.description, series.metric));
    }
  }
  return arrays;
}

void Recorder::take(Series& series, const store::Array& array, std::int64_t rows) {
  const auto wrong = [&](const std::string& what) { throw Error(ErrorKind::corrupt, "dataset " + array.path + ": " + what); };
  const DType type = series.integers ? DType::i64 : DType::f64;
  if (array.type != type) wrong("it holds " + std::string(name_of(array.type)) + ", not " + std::string(name_of(type)));
  std::vector<std::int64_t> shape{rows};
  shape.insert(shape.end(), series.row_shape.begin(), series.row_shape.end());
  if (series.by_rank && array.shape.size() == 2 && array.shape[1] >= 1) shape[1] = array.shape[1];  // of another number of ranks
  if (array.shape != shape) wrong("its shape is " + in_words(array.shape) + ", not " + in_words(shape));
  std::vector<double> values = store::as_doubles(array);
  constexpr double kLargestWhole = 9007199254740992.0;  // 2^53: doubles hold every integer up to here
  if (series.integers && std::ranges::any_of(values, [](double value) { return std::abs(value) > kLargestWhole; }))
    wrong("it holds an integer beyond 2^53");
  if (series.by_rank) {
    const auto before = static_cast<std::size_t>(shape[1]), width = std::max(before, static_cast<std::size_t>(series.row_shape[0]));
    std::vector<double> wide(static_cast<std::size_t>(rows) * width, std::numeric_limits<double>::quiet_NaN());
    for (std::size_t row = 0; row < static_cast<std::size_t>(rows); ++row)
      std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(row * before), before, wide.begin() + static_cast<std::ptrdiff_t>(row * width));
    values = std::move(wide);
    series.row_shape[0] = static_cast<std::int64_t>(width);
  }
  series.values = std::move(values);
}

void Recorder::restore(const store::TrialRecord& record, const std::vector<std::string>& groups) {
  for (const std::string& group : groups) {
    const store::Array* steps = record.find(group + "step");
    if (steps == nullptr) throw Error(ErrorKind::corrupt, "dataset " + group + "step: it is missing");
    if (steps->shape.size() != 1)
      throw Error(ErrorKind::corrupt, "dataset " + group + "step: its shape is " + in_words(steps->shape) + ", not [rows]");
    const std::int64_t rows = steps->shape[0];
    for (Series& series : series_) {
      if (!series.path.starts_with(group)) continue;
      if (const auto* array = record.find(series.path)) take(series, *array, rows);
      else
        series.values.assign(static_cast<std::size_t>(rows * product(series.row_shape)),
                             series.integers ? 0.0 : std::numeric_limits<double>::quiet_NaN());
    }
  }
}

const std::vector<double>& Recorder::values(const std::string& path) const { return find(path).values; }

double Recorder::last(const std::string& path) const {
  const auto found = index_.find(path);
  if (found == index_.end() || series_[found->second].values.empty()) return std::numeric_limits<double>::quiet_NaN();
  return series_[found->second].values.back();
}

}  // namespace moesweep::train
