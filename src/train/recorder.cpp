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
  series_.push_back({path, std::move(row_shape), std::move(unit), std::move(description), metric, integers, {}});
}

Recorder::Series& Recorder::find(const std::string& path) {
  const auto found = index_.find(path);
  MOESWEEP_ASSERT(found != index_.end(), "no series " + path);
  return series_[found->second];
}

void Recorder::append(const std::string& path, std::span<const double> row) {
  Series& series = find(path);
  MOESWEEP_ASSERT(static_cast<std::int64_t>(row.size()) == product(series.row_shape), "a row of the wrong size for " + path);
  series.values.insert(series.values.end(), row.begin(), row.end());
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
