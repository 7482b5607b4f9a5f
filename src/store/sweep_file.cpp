// Reading sweep.h5: rows at once, arrays when asked for.
#include <cmath>
#include <map>
#include <utility>

#include "layout.hpp"
#include "moesweep/store/aggregate.hpp"
#include "ragged.hpp"

namespace moesweep::store {

struct SweepFile::State {
  std::filesystem::path path;
  h5::Handle file;
  SweepHeader header;
  std::vector<SweepRow> rows;
  std::map<std::string, Description> arrays;     ///< by the array's path: its data
  mutable std::map<std::string, Ragged> places;  ///< read when first asked for, and the content checked
};

SweepFile::SweepFile(const std::filesystem::path& path) : state_(std::make_unique<State>()) {
  as_corrupt(path, [&] {
    auto& state = *state_;
    state.path = path;
    require_hdf5(path);
    state.file = h5::open_file(path);
    const hid_t file = state.file.get();
    require_format(file, kSweepFormat, path);
    const auto descriptions = describe_all(file);
    check_digest(file, descriptions, path);
    state.header = {read_text(file, "header/name"), read_text(file, "header/resolved"), read_text(file, "header/provenance")};
    require_metrics_once(descriptions);
    const auto ids = read_texts(file, describe(file, "trials/id"));
    state.rows.resize(ids.size());
    const auto column = [&](const Description& d, auto&& values, auto&& put) {
      if (values.size() != ids.size())
        throw Error(ErrorKind::corrupt,
                    "dataset " + d.path + ": " + std::to_string(values.size()) + " rows for " + std::to_string(ids.size()) + " trials");
      for (std::size_t i = 0; i < ids.size(); ++i) put(state.rows[i], values[i]);
    };
    for (const auto& d : descriptions) {
      const std::string& name = d.path;
      require_column_type(d);
      const auto below = [&](const std::string& folder) { return name.rfind(folder, 0) == 0 ? name.substr(folder.size()) : std::string(); };
      if (name == "trials/id") {
        column(d, ids, [](SweepRow& row, const std::string& text) { row.id = text; });
      } else if (name == "trials/state") {
        const auto states = read_texts(file, d);
        require_states(states);
        column(d, states, [](SweepRow& row, const std::string& text) { row.state = text; });
      } else if (name == "trials/reason") {
        column(d, read_texts(file, d), [](SweepRow& row, const std::string& text) { row.reason = text; });
      } else if (name == "trials/warnings") {
        column(d, read_texts(file, d), [](SweepRow& row, const std::string& text) { row.warnings = text; });
      } else if (const auto axis = below("axes/"); !axis.empty()) {
        column(d, read_texts(file, d), [&](SweepRow& row, const std::string& text) {
          if (!text.empty()) row.axes[axis] = text;
        });
      } else if (const auto metric = below("metrics/"); !metric.empty()) {
        column(d, read_numbers<double>(file, d, DType::f64), [&](SweepRow& row, double value) {
          if (!std::isnan(value)) row.metrics[metric] = value;
        });
      } else if (name == "texts/config/data" || name == "texts/provenance/data") {
        const auto texts = read_ragged_texts(file, name.substr(0, name.rfind('/')), static_cast<std::int64_t>(ids.size()));
        column(d, texts, [&](SweepRow& row, const std::string& text) { (name == "texts/config/data" ? row.config : row.provenance) = text; });
      } else if (const auto array = below("arrays/"); array.ends_with("/data")) {
        state.arrays.emplace(array.substr(0, array.size() - 5), d);
      }
    }
  });
}

SweepFile::~SweepFile() = default;
SweepFile::SweepFile(SweepFile&&) noexcept = default;

const SweepHeader& SweepFile::header() const { return state_->header; }
const std::vector<SweepRow>& SweepFile::rows() const { return state_->rows; }

std::vector<std::string> SweepFile::array_paths() const {
  std::vector<std::string> paths;
  for (const auto& [path, description] : state_->arrays) paths.push_back(path);
  return paths;
}

Array SweepFile::array(std::size_t row, const std::string& path) const {
  return as_corrupt(state_->path, [&] {
    MOESWEEP_ASSERT(row < state_->rows.size(), "there is no such row");
    const auto found = state_->arrays.find(path);
    if (found == state_->arrays.end()) return Array{};
    const auto& data = found->second;
    auto place = state_->places.find(path);
    if (place == state_->places.end()) {
      check_content(state_->file.get(), data);
      place = state_->places.emplace(path, read_places(state_->file.get(), data, static_cast<std::int64_t>(state_->rows.size()))).first;
    }
    const Ragged& ragged = place->second;
    Array array{path, data.type.number, ragged.shape(row), {}, data.unit, data.description, data.metric.value_or(false)};
    const std::int64_t first = ragged.offsets[row], count = ragged.offsets[row + 1] - first;
    array.bytes.resize(static_cast<std::size_t>(count) * data.type.size());
    const auto dataset = h5::open_dataset(state_->file.get(), data.path);
    h5::read_rows(dataset.get(), hdf5_type(data.type).get(), first, count, array.bytes.data(), data.path);
    return array;
  });
}

}  // namespace moesweep::store
