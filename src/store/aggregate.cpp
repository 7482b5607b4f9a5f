// Writing sweep.h5: trials are read in batches, each by one rank, and their arrays joined into one dataset per name.
#include "moesweep/store/aggregate.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include "collective.hpp"
#include "layout.hpp"
#include "moesweep/core/json.hpp"

namespace moesweep::store {

namespace {

/// Trials that a rank holds in memory at a time.
constexpr std::int64_t kTrialsAtOnce = 16;
/// Texts of a row that are stored at fixed length are cut here.
constexpr std::size_t kTextBytes = 4000;

/// One array over all trials so far. Known to every rank alike.
struct Joined {
  Description data;
  std::size_t dataset = 0;
  std::vector<std::int64_t> offsets;  ///< one more than trials
  std::vector<std::int64_t> shapes;   ///< [trials, dimensions]
  std::size_t dimensions = 0;
  std::string seen_in;  ///< the first file that has it
};

Json describe_array(const Array& array) {
  return {array.path, array.shape, static_cast<int>(array.type), shortened(array.unit, 1000), shortened(array.description, 4000), array.metric};
}

TrialRecord read_row(const SweepRow& row) {
  auto record = read_trial(row.trial_file);
  if (record.id != row.id)
    throw Error(ErrorKind::corrupt, "it holds the trial " + record.id + ", not " + row.id, row.trial_file.string(),
                "remove it and run the trial again");
  std::vector<std::string> paths;
  for (const auto& array : record.arrays) paths.push_back(array.path);
  check_paths(paths, "header/");
  return record;
}

Description texts_description(const std::string& path, const std::vector<std::string>& texts, const std::string& description) {
  std::size_t width = 1;
  for (const auto& text : texts) width = std::max(width, text.size());
  return {path, {DType::u8, width}, {static_cast<std::int64_t>(texts.size())}, "text", description, {}, {}};
}

/// Columns whose rows every rank knows: each rank hands in its share.
class Columns {
 public:
  Columns(const comm::Communicator& communicator, CollectiveFile& file) : communicator_(communicator), file_(file) {}

  void add_texts(const std::string& path, const std::vector<std::string>& texts, const std::string& description) {
    const auto d = texts_description(path, texts, description);
    std::vector<std::byte> bytes(d.bytes());
    for (std::size_t i = 0; i < texts.size(); ++i)
      std::transform(texts[i].begin(), texts[i].end(), bytes.begin() + static_cast<std::ptrdiff_t>(i * d.type.text_width),
                     [](char c) { return static_cast<std::byte>(c); });
    add(d, std::move(bytes));
  }

  template <class Value>
  void add_numbers(const Description& d, const std::vector<Value>& values) {
    const auto bytes = std::as_bytes(std::span(values));
    add(d, {bytes.begin(), bytes.end()});
  }

  /// The joined bytes of `texts` and where each begins.
  void add_ragged(const std::string& path, const std::vector<const std::string*>& texts, const std::string& description) {
    std::vector<std::int64_t> offsets{0};
    std::vector<std::byte> bytes;
    for (const auto* text : texts) {
      const auto part = std::as_bytes(std::span(text->data(), text->size()));
      bytes.insert(bytes.end(), part.begin(), part.end());
      offsets.push_back(static_cast<std::int64_t>(bytes.size()));
    }
    add_numbers({path + "/offsets",
                 {DType::i64, 0},
                 {static_cast<std::int64_t>(offsets.size())},
                 "byte",
                 "where the text of each trial begins in data",
                 {},
                 {}},
                offsets);
    add({path + "/data", {DType::u8, 0}, {offsets.back()}, "byte", description, {}, {}}, std::move(bytes));
  }

  void write() {
    std::vector<Fragment> mine;
    std::vector<std::int64_t> available;
    for (const auto& [dataset, description, bytes] : columns_) {
      const auto [first, end] = share_of(communicator_, description.rows());
      mine.push_back({dataset, first, end - first, bytes.data() + static_cast<std::size_t>(first) * description.row_bytes()});
      available.resize(std::max(available.size(), dataset + 1), 0);
      available[dataset] = description.rows();
    }
    file_.write(mine, available);
    columns_.clear();
  }

 private:
  struct Column {
    std::size_t dataset;
    Description description;
    std::vector<std::byte> bytes;
  };
  void add(const Description& d, std::vector<std::byte> bytes) { columns_.push_back({file_.add(d), d, std::move(bytes)}); }

  const comm::Communicator& communicator_;
  CollectiveFile& file_;
  std::vector<Column> columns_;
};

/// `units` of the metrics come from their arrays.
void write_rows(const comm::Communicator& communicator, CollectiveFile& file, const std::vector<SweepRow>& rows,
                const std::map<std::string, std::string>& units) {
  Columns columns(communicator, file);
  const auto texts = [&](const std::string& path, auto&& of, const std::string& description) {
    std::vector<std::string> values;
    for (const auto& row : rows) values.push_back(shortened(of(row), kTextBytes));
    columns.add_texts(path, values, description);
  };
  texts(
      "trials/id", [](const SweepRow& row) { return row.id; }, "the trial's id: rows are in its order");
  texts(
      "trials/state", [](const SweepRow& row) { return row.state; }, "how the trial ended, or where it stands");
  texts(
      "trials/reason", [](const SweepRow& row) { return row.reason; }, "why the state is not `done`");

  std::set<std::string> axes, metrics;
  for (const auto& row : rows) {
    for (const auto& [name, value] : row.axes) axes.insert(name);
    for (const auto& [name, value] : row.metrics) metrics.insert(name);
  }
  for (const auto& axis : axes)
    texts(
        "axes/" + axis, [&](const SweepRow& row) { return row.axes.contains(axis) ? row.axes.at(axis) : std::string(); },
        "value of the resolved key " + axis);
  for (const auto& metric : metrics) {
    std::vector<double> values;
    for (const auto& row : rows) {
      const auto found = row.metrics.find(metric);
      values.push_back(found == row.metrics.end() ? std::numeric_limits<double>::quiet_NaN() : found->second);
    }
    const std::string prefix = "gap_to_reference.";
    const auto unit = units.find(metric.rfind(prefix, 0) == 0 ? metric.substr(prefix.size()) : metric);
    columns.add_numbers({"metrics/" + metric,
                         {DType::f64, 0},
                         {static_cast<std::int64_t>(values.size())},
                         unit == units.end() ? "1" : unit->second,
                         "last evaluation, layer mean; NaN where absent",
                         {},
                         {}},
                        values);
  }
  std::vector<const std::string*> configs, provenances;
  for (const auto& row : rows) {
    configs.push_back(&row.config);
    provenances.push_back(&row.provenance);
  }
  columns.add_ragged("texts/config", configs, "resolved config of each trial, JSON");
  columns.add_ragged("texts/provenance", provenances, "provenance of each trial, JSON");
  columns.write();
}

/// Takes one trial's list of arrays in, the same on every rank; `entry` is [path, shape, type, unit, description, metric].
void take(std::map<std::string, Joined>& joined, const Json& entry, std::size_t trial, const std::string& file) {
  const auto path = entry[0].get<std::string>();
  const auto shape = entry[1].get<std::vector<std::int64_t>>();
  const auto type = static_cast<DType>(entry[2].get<int>());
  auto [place, is_new] = joined.try_emplace(path);
  Joined& array = place->second;
  if (is_new) {
    array.data = {"arrays/" + path + "/data", {type, 0}, {0}, entry[3].get<std::string>(), entry[4].get<std::string>(), entry[5].get<bool>(), {}};
    array.dimensions = shape.size();
    array.offsets.assign(1, 0);
    array.seen_in = file;
  }
  if (array.data.type.number != type || array.dimensions != shape.size())
    throw Error(ErrorKind::data,
                "dataset " + path + ": " + std::to_string(shape.size()) + " dimensions of " + std::string(name_of(type)) + ", but " +
                    std::to_string(array.dimensions) + " of " + array.data.type.name() + " in " + array.seen_in,
                file, "the trials were made by builds that do not fit together: run the older ones again")
        .thrown_on_every_rank();
  // Trials in between that lack the array have no elements and a shape of zeros.
  array.offsets.resize(trial + 1, array.offsets.back());
  array.shapes.resize(trial * array.dimensions, 0);
  array.shapes.insert(array.shapes.end(), shape.begin(), shape.end());
  array.offsets.push_back(array.offsets.back() + product(shape));
}

/// Large records that a sweep has no use for.
bool stays_with_trial(const std::string& path) { return path.starts_with("assignments/"); }

/// Gives the units of the arrays that are metrics, by the metric's name.
std::map<std::string, std::string> write_arrays(const comm::Communicator& communicator, CollectiveFile& file, const std::vector<SweepRow>& rows) {
  std::vector<std::size_t> with_file;
  for (std::size_t i = 0; i < rows.size(); ++i)
    if (!rows[i].trial_file.empty()) with_file.push_back(i);
  const auto trials = static_cast<std::int64_t>(with_file.size());
  const std::int64_t size = communicator.size();
  const std::int64_t each = std::clamp<std::int64_t>((trials + size - 1) / size, 1, kTrialsAtOnce);
  const std::int64_t batches = (trials + each * size - 1) / (each * size);

  std::map<std::string, Joined> joined;
  for (std::int64_t batch = 0; batch < batches; ++batch) {
    const std::int64_t first = std::min(trials, (batch * size + communicator.rank()) * each), end = std::min(trials, first + each);
    std::vector<TrialRecord> mine;
    communicator.agree(
        [&] {
          for (std::int64_t i = first; i < end; ++i) mine.push_back(read_row(rows[with_file[static_cast<std::size_t>(i)]]));
        },
        "reading of trials");

    // Every rank learns the shapes of the whole batch, and so the place of its own rows.
    Json lists = Json::array();
    for (const auto& record : mine) {
      Json list = Json::array();
      for (const auto& array : record.arrays)
        if (!stays_with_trial(array.path)) list.push_back(describe_array(array));
      lists.push_back(std::move(list));
    }
    std::vector<Fragment> fragments;
    std::int64_t next = batch * size * each;
    std::vector<std::string> fresh;
    const auto all = communicator.all_gather(lists.dump(-1, ' ', false, Json::error_handler_t::replace), "shapes of a batch");
    for (int r = 0; r < communicator.size(); ++r) {
      const Json theirs = Json::parse(all[static_cast<std::size_t>(r)]);
      for (std::size_t t = 0; t < theirs.size(); ++t, ++next) {
        const std::size_t trial = with_file[static_cast<std::size_t>(next)];
        for (std::size_t a = 0; a < theirs[t].size(); ++a) {
          const bool is_new = !joined.contains(theirs[t][a][0].get<std::string>());
          take(joined, theirs[t][a], trial, rows[trial].trial_file.string());
          if (is_new) fresh.push_back(theirs[t][a][0].get<std::string>());
        }
      }
    }
    // New names get their datasets, sized by what this batch holds of them.
    std::sort(fresh.begin(), fresh.end());
    for (const auto& path : fresh) {
      Joined& array = joined.at(path);
      const std::int64_t rows_so_far = array.offsets.back();
      array.data.shape = {rows_so_far};
      const bool complete = batches == 1;
      array.dataset = file.add(array.data, !complete, rows_so_far * (batches - batch));
    }
    for (std::size_t t = 0; t < mine.size(); ++t) {
      const std::size_t trial = with_file[static_cast<std::size_t>(first) + t];
      for (const auto& record_array : mine[t].arrays) {
        if (stays_with_trial(record_array.path)) continue;
        const Joined& array = joined.at(record_array.path);
        fragments.push_back({array.dataset, array.offsets[trial], array.offsets[trial + 1] - array.offsets[trial], record_array.bytes.data()});
      }
    }
    std::vector<std::int64_t> available;
    for (const auto& [path, array] : joined) {
      available.resize(std::max(available.size(), array.dataset + 1), 0);
      available[array.dataset] = array.offsets.back();
    }
    file.write(fragments, available);
  }

  std::map<std::string, std::string> units;
  Columns columns(communicator, file);
  const auto count = static_cast<std::int64_t>(rows.size());
  for (auto& [path, array] : joined) {
    if (array.data.metric.value_or(false)) units[path.substr(path.rfind('/') + 1)] = array.data.unit;
    array.offsets.resize(rows.size() + 1, array.offsets.back());
    array.shapes.resize(rows.size() * array.dimensions, 0);
    columns.add_numbers(
        {"arrays/" + path + "/offsets", {DType::i64, 0}, {count + 1}, "element", "where the array of each trial begins in data", {}, {}},
        array.offsets);
    columns.add_numbers({"arrays/" + path + "/shapes",
                         {DType::i64, 0},
                         {count, static_cast<std::int64_t>(array.dimensions)},
                         "element",
                         "the shape of each trial's array; zeros where it has none",
                         {},
                         {}},
                        array.shapes);
  }
  columns.write();
  return units;
}

void check_rows(const std::vector<SweepRow>& rows) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i + 1 < rows.size(); ++i)
    MOESWEEP_ASSERT(rows[i].id < rows[i + 1].id, "the rows of an aggregate are in order of their ids, each once");
  std::set<std::string> axes, metrics;
  for (const auto& row : rows) {
    for (const auto& [name, value] : row.axes) axes.insert("axes/" + name);
    for (const auto& [name, value] : row.metrics) metrics.insert("metrics/" + name);
  }
  names.insert(names.end(), axes.begin(), axes.end());
  names.insert(names.end(), metrics.begin(), metrics.end());
  check_paths(names, "");
}

std::string summary_of(const SweepHeader& header, const std::vector<SweepRow>& rows) {
  Json all = {header.name, header.resolved, header.provenance};
  for (const auto& row : rows) {
    Json metrics = Json::object();
    for (const auto& [name, value] : row.metrics) metrics[name] = std::isnan(value) ? Json("nan") : Json(value);
    all.push_back({row.id, row.state, row.reason, row.axes, metrics, row.config, row.provenance, row.trial_file.string()});
  }
  return all.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

void write_sweep(const comm::Communicator& communicator, const std::filesystem::path& path, const SweepHeader& header,
                 const std::vector<SweepRow>& rows) {
  communicator.agree([&] { check_rows(rows); }, "rows of an aggregate");
  require_same(communicator, summary_of(header, rows), "the rows of an aggregate");
  write_together(
      communicator, path,
      [&](CollectiveFile& file) {
        const auto units = write_arrays(communicator, file, rows);
        write_rows(communicator, file, rows, units);
      },
      static_cast<std::int64_t>(header.name.size() + header.resolved.size() + header.provenance.size()),
      [&](hid_t file) {
        write_format(file, kSweepFormat);
        write_text(file, "header/name", header.name, "the sweep's name");
        write_text(file, "header/resolved", header.resolved, "the sweep as resolved, JSON");
        write_text(file, "header/provenance", header.provenance, "where and with what the sweep was aggregated, JSON");
      });
}

}  // namespace moesweep::store
