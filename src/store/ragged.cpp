// See ragged.hpp.
#include "ragged.hpp"

#include <algorithm>
#include <array>
#include <map>

#include "moesweep/core/checked.hpp"

namespace moesweep::store {

std::vector<std::int64_t> Ragged::shape(std::size_t row) const {
  const auto first = shapes.begin() + static_cast<std::ptrdiff_t>(row * dimensions);
  std::vector<std::int64_t> result(first, first + static_cast<std::ptrdiff_t>(dimensions));
  if (std::all_of(result.begin(), result.end(), [](auto dimension) { return dimension == 0; })) result.clear();
  return result;
}

void require_column_type(const Description& d) {
  const bool number = d.path == "trials/whole" || d.path.starts_with("metrics/");
  const ElementType wanted{d.path == "trials/whole" ? DType::u8 : DType::f64, 0};
  const bool text = !number && (d.path.starts_with("trials/") || d.path.starts_with("axes/"));
  if ((text && d.type.text_width == 0) || (number && d.type != wanted))
    throw Error(ErrorKind::corrupt, "dataset " + d.path + ": it holds " + d.type.name() + ", not " + (text ? "texts" : wanted.name()));
}

void require_states(const std::vector<std::string>& states) {
  constexpr std::array kStates{"done", "failed", "diverged", "out_of_memory", "timed_out", "crashed", "preempted", "skipped", "pending", "running"};
  for (std::size_t row = 0; row < states.size(); ++row)
    if (std::ranges::find(kStates, states[row]) == kStates.end())
      throw Error(ErrorKind::corrupt,
                  "dataset trials/state: row " + std::to_string(row) + " holds '" + states[row] + "', which is no state of a trial");
}

void require_metrics_once(const std::vector<Description>& descriptions) {
  std::map<std::string, std::string> arrays;  // by the name of the metric
  for (const Description& d : descriptions) {
    if (!d.metric.value_or(false) || !d.path.starts_with("arrays/") || !d.path.ends_with("/data")) continue;
    const std::string array = d.path.substr(0, d.path.rfind('/'));
    const std::string name = array.substr(array.rfind('/') + 1);
    if (const auto [place, fresh] = arrays.try_emplace(name, array); !fresh)
      throw Error(ErrorKind::corrupt, "datasets " + place->second + " and " + array + " are both the metric '" + name + "'");
  }
}

std::vector<std::int64_t> read_offsets(hid_t file, const std::string& group, std::int64_t rows, std::int64_t elements) {
  const auto d = describe(file, group + "/offsets");
  auto offsets = read_numbers<std::int64_t>(file, d, DType::i64);
  if (static_cast<std::int64_t>(offsets.size()) != rows + 1 || offsets.front() != 0 || offsets.back() != elements ||
      !std::is_sorted(offsets.begin(), offsets.end()))
    throw Error(ErrorKind::corrupt,
                "dataset " + d.path + ": the offsets do not run from 0 to " + std::to_string(elements) + " over " + std::to_string(rows) + " trials");
  return offsets;
}

Ragged read_places(hid_t file, const Description& data, std::int64_t rows) {
  const auto group = data.path.substr(0, data.path.rfind('/'));
  if (data.shape.size() != 1 || data.type.text_width > 0)
    throw Error(ErrorKind::corrupt, "dataset " + data.path + ": it does not hold joined arrays");
  Ragged ragged;
  ragged.offsets = read_offsets(file, group, rows, data.rows());
  const auto d = describe(file, group + "/shapes");
  ragged.shapes = read_numbers<std::int64_t>(file, d, DType::i64);
  if (d.shape.size() != 2 || d.shape[0] != rows || d.shape[1] < 1)
    throw Error(ErrorKind::corrupt, "dataset " + d.path + ": it does not hold one shape per trial");
  ragged.dimensions = static_cast<std::size_t>(d.shape[1]);
  for (std::size_t i = 0; i < static_cast<std::size_t>(rows); ++i)
    if (checked_product(std::span<const std::int64_t>(ragged.shapes).subspan(i * ragged.dimensions, ragged.dimensions)) !=
        ragged.offsets[i + 1] - ragged.offsets[i])
      throw Error(ErrorKind::corrupt, "dataset " + d.path + ": the shape of row " + std::to_string(i) + " does not fit its offsets");
  return ragged;
}

std::vector<std::string> read_ragged_texts(hid_t file, const std::string& group, std::int64_t rows) {
  const auto text = read_text(file, group + "/data");
  const auto offsets = read_offsets(file, group, rows, static_cast<std::int64_t>(text.size()));
  std::vector<std::string> texts;
  for (std::size_t i = 0; i + 1 < offsets.size(); ++i)
    texts.push_back(text.substr(static_cast<std::size_t>(offsets[i]), static_cast<std::size_t>(offsets[i + 1] - offsets[i])));
  return texts;
}

}  // namespace moesweep::store
