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

Recorder::Series& Recorder::find(const std::string& path) {
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

void Recorder::restore(const store::TrialRecord& record, const std::vector<std::string>& groups) {
  for (Series& series : series_) {
    const auto group = std::ranges::find_if(groups, [&](const std::string& each) { return series.path.starts_with(each); });
    if (group == groups.end()) continue;
    if (const auto* array = record.find(series.path)) {
      series.values = store::as_doubles(*array);
      if (series.by_rank && array->shape.size() == 2) {
        const auto rows = static_cast<std::size_t>(array->shape[0]), before = static_cast<std::size_t>(array->shape[1]);
        const std::size_t width = std::max(before, static_cast<std::size_t>(series.row_shape[0]));
        std::vector<double> wide(rows * width, std::numeric_limits<double>::quiet_NaN());
        for (std::size_t row = 0; row < rows; ++row)
          std::copy_n(series.values.begin() + static_cast<std::ptrdiff_t>(row * before), before,
                      wide.begin() + static_cast<std::ptrdiff_t>(row * width));
        series.values = std::move(wide);
        series.row_shape[0] = static_cast<std::int64_t>(width);
      }
    } else if (const auto* steps = record.find(*group + "step")) {
      const auto values = static_cast<std::size_t>(steps->elements() * product(series.row_shape));
      series.values.assign(values, series.integers ? 0.0 : std::numeric_limits<double>::quiet_NaN());
    }
  }
}

double Recorder::last(const std::string& path) const {
  const auto found = index_.find(path);
  if (found == index_.end() || series_[found->second].values.empty()) return std::numeric_limits<double>::quiet_NaN();
  return series_[found->second].values.back();
}

}  // namespace moesweep::train
