// Writing sweep.h5: trials are read in batches, each by one rank, and their arrays joined into one dataset per name. A rank keeps of its trials
// only what the columns need; all else is written batch by batch.
#include "moesweep/store/aggregate.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <set>
#include <utility>

#include "collective.hpp"
#include "earlier.hpp"
#include "layout.hpp"
#include "moesweep/core/json.hpp"
#include "trial.hpp"

namespace moesweep::store {

namespace {

/// Trials that a rank holds in memory at a time.
constexpr std::int64_t kTrialsAtOnce = 64;
/// Texts of a row that are stored at fixed length are cut here.
constexpr std::size_t kTextBytes = 4000;
/// Chunks of the datasets that say where each trial's part lies: there are many of them.
constexpr std::size_t kPlaceChunkBytes = std::size_t{16} << 10;

/// Large records that a sweep has no use for.
bool stays_with_trial(const std::string& path) { return path.starts_with("assignments/"); }

bool all_zero(const std::vector<std::int64_t>& shape) {
  return std::all_of(shape.begin(), shape.end(), [](auto dimension) { return dimension == 0; });
}

/// One array over all trials so far. Known to every rank alike.
struct Joined {
  Description data;
  std::size_t dimensions = 0;
  std::string seen_in;  ///< the first file that has it
  std::int64_t total = 0;
  std::size_t data_set = 0, offsets_set = 0, shapes_set = 0;  ///< numbers in the file
};

/// What is kept of a row until the columns are written.
struct KeptRow {
  std::size_t trial;
  std::string state, reason, warnings, digest;
  bool whole;  ///< the aggregate gives back all that the trial's file holds, but what stays with the trial
  std::map<std::string, std::string> axes;
  std::vector<std::pair<std::uint32_t, double>> metrics;  ///< by the number of the name
};

Description column(std::string path, DType type, std::int64_t rows, std::string unit, std::string description) {
  return {std::move(path), {type, 0}, {rows}, std::move(unit), std::move(description), {}, {}};
}

class Writer {
 public:
  Writer(const comm::Communicator& communicator, CollectiveFile& file, const SweepSource& source, const std::optional<EarlierSweep>& earlier)
      : communicator_(communicator), file_(file), source_(source), earlier_(earlier), count_(static_cast<std::int64_t>(source.trials.size())) {
    const std::int64_t size = communicator.size();
    each_ = std::clamp<std::int64_t>((count_ + size - 1) / size, 1, kTrialsAtOnce);
    batches_ = (count_ + each_ * size - 1) / (each_ * size);
  }

  SweepMaking write() {
    for (Texts* texts : {&configs_, &provenances_}) {
      const auto offsets =
          column(std::string(texts->path) + "/offsets", DType::i64, count_ + 1, "byte", "where the text of each trial begins in data");
      texts->offsets_set = add_rows(offsets);
    }
    if (count_ == 0) {
      for (Texts* texts : {&configs_, &provenances_}) {
        texts->data_set = file_.add(column(std::string(texts->path) + "/data", DType::u8, 0, "byte", texts->description));
        give_zeros(texts->offsets_set, 1, 1);
      }
      send();
    }
    for (std::int64_t batch = 0; batch < batches_; ++batch) write_batch(batch);
    if (source_.meet) source_.meet();
    communicator_.agree([&] { derive_metrics(); }, "metrics of an aggregate");
    write_columns();
    SweepMaking making;
    making.files_read = communicator_.sum(files_read_, "counts of an aggregate");
    making.rows_kept = communicator_.sum(rows_kept_, "counts of an aggregate");
    return making;
  }

 private:
  struct Texts {
    const char *path, *description;
    std::size_t offsets_set = 0, data_set = 0;
    std::int64_t total = 0;
    std::vector<std::string> mine;  ///< of this batch
  };

  /// A dataset of known length that is filled batch by batch.
  std::size_t add_rows(const Description& d) { return file_.add(d, batches_ > 1, d.rows(), kPlaceChunkBytes); }

  // Fragments of the next write and what they point to.
  void give(std::size_t dataset, std::int64_t first, std::int64_t rows, const std::byte* data) {
    if (rows > 0) fragments_.push_back({dataset, first, rows, data});
  }
  template <class Value>
  void give_copy(std::size_t dataset, std::int64_t first, std::int64_t rows, const std::vector<Value>& values) {
    const auto bytes = std::as_bytes(std::span(values));
    buffers_.emplace_back(bytes.begin(), bytes.end());
    give(dataset, first, rows, buffers_.back().data());
  }
  /// Rows [0, rows) of zeros, `width` numbers of 8 bytes each, from rank 0.
  void give_zeros(std::size_t dataset, std::int64_t rows, std::size_t width) {
    if (communicator_.rank() == 0) give_copy(dataset, 0, rows, std::vector<std::int64_t>(static_cast<std::size_t>(rows) * width, 0));
    come(dataset, rows);
  }
  /// All ranks together have given rows [0, rows).
  void come(std::size_t dataset, std::int64_t rows) {
    available_.resize(std::max(available_.size(), dataset + 1), 0);
    available_[dataset] = std::max(available_[dataset], rows);
  }
  void send() {
    file_.write(fragments_, available_);
    fragments_.clear();
    buffers_.clear();
  }

  /// Whether the file still has the length that it was published with: the journal, not the file, says which digest it has.
  static bool is_as_published(const SweepTrial& trial) {
    std::error_code failure;
    const auto bytes = std::filesystem::file_size(trial.file, failure);
    return !failure && trial.published.bytes >= 0 && bytes == static_cast<std::uintmax_t>(trial.published.bytes);
  }

  void read(std::int64_t first, std::int64_t end) {
    records_.clear();
    digests_.clear();
    std::vector<std::optional<std::size_t>> kept;
    for (std::int64_t i = first; i < end; ++i) {
      const auto& trial = source_.trials[static_cast<std::size_t>(i)];
      records_.emplace_back();
      digests_.emplace_back();
      kept.emplace_back();
      if (trial.file.empty()) continue;
      if (earlier_ && is_as_published(trial)) kept.back() = earlier_->find(trial.id, digests_.back() = trial.published.digest);
      if (kept.back()) continue;
      Published found;
      records_.back() = reader_.read(trial.file, trial.published, &found);
      digests_.back() = found.digest;
      ++files_read_;
      if (records_.back()->id != trial.id)
        throw Error(ErrorKind::corrupt, "it holds the trial " + records_.back()->id + ", not " + trial.id, trial.file.string(),
                    "remove it and run the trial again");
      std::vector<std::string> paths;
      for (const auto& array : records_.back()->arrays) paths.push_back(array.path);
      check_paths(paths, "header/");
    }
    // Rows of the earlier aggregate, as long runs.
    for (std::size_t i = 0; i < kept.size();) {
      std::size_t next = i + 1;
      if (kept[i]) {
        while (next < kept.size() && kept[next] && *kept[next] == *kept[next - 1] + 1) ++next;
        auto run = earlier_->read(*kept[i], *kept[next - 1] + 1);
        for (std::size_t k = i; k < next; ++k) records_[k] = std::move(run[k - i]);
        rows_kept_ += static_cast<std::int64_t>(next - i);
      }
      i = next;
    }
    for (std::size_t k = 0; k < records_.size(); ++k) {
      const auto i = static_cast<std::size_t>(first) + k;
      SweepRow row = source_.row(i, records_[k] ? &*records_[k] : nullptr);
      KeptRow mine{i,
                   shortened(row.state, kTextBytes),
                   shortened(row.reason, kTextBytes),
                   shortened(row.warnings, kTextBytes),
                   digests_[k],
                   true,
                   std::move(row.axes),
                   {}};
      mine.whole = row.reason.size() <= kTextBytes;
      for (const auto& [name, value] : row.metrics) mine.metrics.emplace_back(number_of(name), value);
      rows_.push_back(std::move(mine));
      configs_.mine.push_back(std::move(row.config));
      provenances_.mine.push_back(std::move(row.provenance));
    }
  }

  std::uint32_t number_of(const std::string& metric) {
    const auto [place, is_new] = metric_numbers_.emplace(metric, static_cast<std::uint32_t>(metric_names_.size()));
    if (is_new) metric_names_.push_back(metric);
    return place->second;
  }

  /// Every rank learns of arrays that nobody had before. The first trial in the order of the ids says what they are.
  std::vector<std::string> learn_names(std::int64_t first) {
    Json fresh = Json::array();
    std::set<std::string> told;
    for (std::size_t k = 0; k < records_.size(); ++k) {
      if (!records_[k]) continue;
      for (const auto& array : records_[k]->arrays) {
        if (stays_with_trial(array.path) || joined_.contains(array.path) || !told.insert(array.path).second) continue;
        fresh.push_back({array.path, array.shape.size(), static_cast<int>(array.type), shortened(array.unit, 1000),
                         shortened(array.description, 4000), array.metric, source_.trials[static_cast<std::size_t>(first) + k].file.string()});
      }
    }
    std::vector<std::string> names;
    if (communicator_.sum(static_cast<std::int64_t>(fresh.size()), "new arrays of a batch") == 0) return names;
    for (const auto& text : communicator_.all_gather(fresh.dump(-1, ' ', false, Json::error_handler_t::replace), "new arrays of a batch"))
      for (const Json& entry : Json::parse(text)) {
        const auto path = entry[0].get<std::string>();
        auto [place, is_new] = joined_.try_emplace(path);
        if (!is_new) continue;
        Joined& array = place->second;
        array.dimensions = entry[1].get<std::size_t>();
        array.data = {"arrays/" + path + "/data",
                      {static_cast<DType>(entry[2].get<int>()), 0},
                      {0},
                      entry[3].get<std::string>(),
                      entry[4].get<std::string>(),
                      entry[5].get<bool>(),
                      {}};
        array.seen_in = entry[6].get<std::string>();
        names.push_back(path);
      }
    std::sort(names.begin(), names.end());
    return names;
  }

  void check_arrays(std::int64_t first) {
    for (std::size_t k = 0; k < records_.size(); ++k) {
      if (!records_[k]) continue;
      auto& row = rows_[rows_.size() - records_.size() + k];
      for (const auto& array : records_[k]->arrays) {
        if (stays_with_trial(array.path)) continue;
        const Joined& known = joined_.at(array.path);
        if (known.data.type.number != array.type || known.dimensions != array.shape.size())
          throw Error(ErrorKind::data,
                      "dataset " + array.path + ": " + std::to_string(array.shape.size()) + " dimensions of " + std::string(name_of(array.type)) +
                          ", but " + std::to_string(known.dimensions) + " of " + known.data.type.name() + " in " + known.seen_in,
                      source_.trials[static_cast<std::size_t>(first) + k].file.string(),
                      "the trials were made by builds that do not fit together: run the older ones again");
        // What the joined array cannot tell apart is read from the file again next time.
        if (all_zero(array.shape) || known.data.metric != array.metric || known.data.unit != shortened(array.unit, 1000) ||
            known.data.description != shortened(array.description, 4000))
          row.whole = false;
      }
    }
  }

  void write_batch(std::int64_t batch) {
    const std::int64_t size = communicator_.size(), batch_first = batch * size * each_, batch_end = std::min(count_, batch_first + size * each_);
    const std::int64_t first = std::min(count_, batch_first + communicator_.rank() * each_), end = std::min(count_, first + each_),
                       mine = end - first;
    communicator_.agree([&] { read(first, end); }, "reading of trials");
    const auto fresh = learn_names(first);
    communicator_.agree([&] { check_arrays(first); }, "arrays of trials");

    // How much each rank adds to each array and text: so every rank knows the place of its own.
    std::vector<std::int64_t> lengths;
    for (const Texts* texts : {&configs_, &provenances_}) {
      lengths.push_back(0);
      for (const auto& text : texts->mine) lengths.back() += static_cast<std::int64_t>(text.size());
    }
    std::map<std::string, std::vector<const Array*>> arrays;  // of my trials, null where one has none
    for (const auto& [path, array] : joined_) arrays[path].resize(records_.size(), nullptr);
    for (std::size_t k = 0; k < records_.size(); ++k)
      if (records_[k])
        for (const auto& array : records_[k]->arrays)
          if (!stays_with_trial(array.path)) arrays.at(array.path)[k] = &array;
    for (const auto& [path, mine_of_it] : arrays) {
      lengths.push_back(0);
      for (const Array* array : mine_of_it) lengths.back() += array ? array->elements() : 0;
    }
    const auto as_text = [](const std::vector<std::int64_t>& values) {
      return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(std::int64_t));
    };
    std::vector<std::int64_t> before(lengths.size(), 0), together(lengths.size(), 0), theirs(lengths.size());
    const auto all = communicator_.all_gather(as_text(lengths), "lengths of a batch");
    for (int r = 0; r < communicator_.size(); ++r) {
      std::memcpy(theirs.data(), all[static_cast<std::size_t>(r)].data(), theirs.size() * sizeof(std::int64_t));
      for (std::size_t i = 0; i < theirs.size(); ++i) {
        if (r < communicator_.rank()) before[i] += theirs[i];
        together[i] += theirs[i];
      }
    }

    // New datasets, sized by what this batch holds of them.
    std::size_t number = 0;
    std::map<std::string, std::size_t> numbers;
    for (Texts* texts : {&configs_, &provenances_}) {
      if (batch == 0) {
        texts->data_set = file_.add(column(std::string(texts->path) + "/data", DType::u8, together[number], "byte", texts->description), batches_ > 1,
                                    together[number] * batches_);
        give_zeros(texts->offsets_set, 1, 1);
      }
      ++number;
    }
    for (const auto& [path, array] : joined_) numbers[path] = number++;
    for (const auto& path : fresh) {
      Joined& array = joined_.at(path);
      array.data.shape = {together[numbers.at(path)]};
      array.data_set = file_.add(array.data, batches_ > 1, array.data.shape[0] * (batches_ - batch));
      array.offsets_set =
          add_rows(column("arrays/" + path + "/offsets", DType::i64, count_ + 1, "element", "where the array of each trial begins in data"));
      Description shapes =
          column("arrays/" + path + "/shapes", DType::i64, count_, "element", "the shape of each trial's array; zeros where it has none");
      shapes.shape.push_back(static_cast<std::int64_t>(array.dimensions));
      array.shapes_set = add_rows(shapes);
      // The trials before have none of it.
      give_zeros(array.offsets_set, batch_first + 1, 1);
      give_zeros(array.shapes_set, batch_first, array.dimensions);
    }

    number = 0;
    for (Texts* texts : {&configs_, &provenances_}) {
      std::vector<std::int64_t> offsets;
      std::int64_t place = texts->total + before[number];
      for (const auto& text : texts->mine) {
        give(texts->data_set, place, static_cast<std::int64_t>(text.size()), reinterpret_cast<const std::byte*>(text.data()));
        offsets.push_back(place += static_cast<std::int64_t>(text.size()));
      }
      give_copy(texts->offsets_set, first + 1, mine, offsets);
      texts->total += together[number++];
      come(texts->data_set, texts->total);
      come(texts->offsets_set, batch_end + 1);
    }
    for (auto& [path, array] : joined_) {
      std::vector<std::int64_t> offsets, shapes;
      std::int64_t place = array.total + before[number];
      for (const Array* own : arrays.at(path)) {
        if (own) {
          give(array.data_set, place, own->elements(), own->bytes.data());
          place += own->elements();
          shapes.insert(shapes.end(), own->shape.begin(), own->shape.end());
        } else {
          shapes.insert(shapes.end(), array.dimensions, 0);
        }
        offsets.push_back(place);
      }
      give_copy(array.offsets_set, first + 1, mine, offsets);
      give_copy(array.shapes_set, first, mine, shapes);
      array.total += together[number++];
      come(array.data_set, array.total);
      come(array.offsets_set, batch_end + 1);
      come(array.shapes_set, batch_end);
    }
    send();
    configs_.mine.clear();
    provenances_.mine.clear();
    records_.clear();
  }

  void derive_metrics() {
    if (!source_.more_metrics) return;
    for (auto& row : rows_) {
      std::map<std::string, double> metrics;
      for (const auto& [number, value] : row.metrics) metrics[metric_names_[number]] = value;
      for (const auto& [name, value] : source_.more_metrics(row.trial, metrics)) row.metrics.emplace_back(number_of(name), value);
    }
  }

  /// Hands in one column, of which this rank has the rows of its trials.
  void write_column(const Description& d, const std::function<void(const KeptRow& row, std::byte* cell)>& put) {
    const std::size_t dataset = file_.add(d), width = d.row_bytes();
    std::vector<std::byte> bytes(rows_.size() * width);
    for (std::size_t k = 0; k < rows_.size(); ++k) put(rows_[k], bytes.data() + k * width);
    for (std::size_t k = 0; k < rows_.size();) {
      std::size_t next = k + 1;
      while (next < rows_.size() && rows_[next].trial == rows_[next - 1].trial + 1) ++next;
      give(dataset, static_cast<std::int64_t>(rows_[k].trial), static_cast<std::int64_t>(next - k), bytes.data() + k * width);
      k = next;
    }
    come(dataset, count_);
    buffers_.push_back(std::move(bytes));
    if (++columns_ % 64 == 0) send();
  }

  void write_columns() {
    // What columns there are, and how wide: the union over the ranks.
    Json mine = {{"axes", Json::object()}, {"metrics", Json::array()}, {"state", 1}, {"reason", 1}, {"warnings", 1}, {"id", 1}, {"digest", 1}};
    const auto widen = [](Json& width, const std::string& text) { width = std::max(width.get<std::size_t>(), text.size()); };
    for (const auto& row : rows_) {
      widen(mine["id"], source_.trials[row.trial].id);
      widen(mine["state"], row.state);
      widen(mine["reason"], row.reason);
      widen(mine["warnings"], row.warnings);
      widen(mine["digest"], row.digest);
      for (const auto& [axis, text] : row.axes) {
        Json& width = mine["axes"][axis];
        if (width.is_null()) width = 1;
        widen(width, shortened(text, kTextBytes));
      }
    }
    for (const auto& name : metric_names_) mine["metrics"].push_back(name);
    std::map<std::string, std::size_t> widths, axes;
    std::set<std::string> metrics;
    for (const auto& text : communicator_.all_gather(mine.dump(-1, ' ', false, Json::error_handler_t::replace), "columns of an aggregate")) {
      const Json theirs = Json::parse(text);
      for (const char* name : {"id", "state", "reason", "warnings", "digest"}) widths[name] = std::max(widths[name], theirs[name].get<std::size_t>());
      for (const auto& [axis, width] : theirs["axes"].items()) axes[axis] = std::max(axes[axis], width.get<std::size_t>());
      for (const auto& name : theirs["metrics"]) metrics.insert(name.get<std::string>());
    }
    communicator_.agree(
        [&] {
          std::vector<std::string> names;
          for (const auto& [axis, width] : axes) names.push_back("axes/" + axis);
          for (const auto& metric : metrics) names.push_back("metrics/" + metric);
          check_paths(names, "");
        },
        "names of the columns");

    const auto texts = [&](const std::string& path, std::size_t width, const std::string& description, auto&& of) {
      const Description d{path, {DType::u8, width}, {count_}, "text", description, {}, {}};
      write_column(d, [&](const KeptRow& row, std::byte* cell) {
        const std::string& text = of(row);
        std::memcpy(cell, text.data(), text.size());
      });
    };
    const std::string none;
    texts("trials/id", widths["id"], "the trial's id: rows are in its order",
          [&](const KeptRow& row) -> const std::string& { return source_.trials[row.trial].id; });
    texts("trials/state", widths["state"], "how the trial ended, or where it stands",
          [](const KeptRow& row) -> const std::string& { return row.state; });
    texts("trials/reason", widths["reason"], "why the state is not `done`", [](const KeptRow& row) -> const std::string& { return row.reason; });
    texts("trials/warnings", widths["warnings"], "words separated by commas; no_better_than_uniform: the validation loss is at least ln V - 0.01",
          [](const KeptRow& row) -> const std::string& { return row.warnings; });
    texts("trials/digest", widths["digest"], "digest of the trial's file; empty where it left none",
          [](const KeptRow& row) -> const std::string& { return row.digest; });
    write_column(column("trials/whole", DType::u8, count_, "1", "1: the row gives back the trial's file exactly, but its config and assignments"),
                 [](const KeptRow& row, std::byte* cell) { *cell = std::byte{row.whole}; });
    for (const auto& [axis, width] : axes) {
      std::string cut;
      texts("axes/" + axis, width, "value of the resolved key " + axis, [&, &name = axis](const KeptRow& row) -> const std::string& {
        const auto found = row.axes.find(name);
        return found == row.axes.end() ? none : cut = shortened(found->second, kTextBytes);
      });
    }
    std::map<std::string, std::string> units;
    for (const auto& [path, array] : joined_)
      if (array.data.metric.value_or(false)) units[path.substr(path.rfind('/') + 1)] = array.data.unit;
    for (const auto& metric : metrics) {
      const std::string prefix = "gap_to_reference.";
      const auto unit = units.find(metric.starts_with(prefix) ? metric.substr(prefix.size()) : metric);
      const auto found = metric_numbers_.find(metric);
      write_column(
          column("metrics/" + metric, DType::f64, count_, unit == units.end() ? "1" : unit->second, "last evaluation, layer mean; NaN where absent"),
          [&](const KeptRow& row, std::byte* cell) {
            double value = std::numeric_limits<double>::quiet_NaN();
            if (found != metric_numbers_.end())
              for (const auto& [number, own] : row.metrics)
                if (number == found->second) value = own;
            std::memcpy(cell, &value, sizeof value);
          });
    }
    send();
  }

  const comm::Communicator& communicator_;
  CollectiveFile& file_;
  const SweepSource& source_;
  const std::optional<EarlierSweep>& earlier_;
  std::int64_t count_, each_ = 1, batches_ = 0, files_read_ = 0, rows_kept_ = 0;
  std::size_t columns_ = 0;
  TrialReader reader_;
  std::map<std::string, Joined> joined_;
  Texts configs_{"texts/config", "resolved config of each trial, JSON", 0, 0, 0, {}};
  Texts provenances_{"texts/provenance", "provenance of each trial, JSON", 0, 0, 0, {}};
  std::vector<KeptRow> rows_;
  std::map<std::string, std::uint32_t> metric_numbers_;
  std::vector<std::string> metric_names_;
  std::vector<std::optional<TrialRecord>> records_;  ///< of this batch
  std::vector<std::string> digests_;
  std::vector<Fragment> fragments_;
  std::deque<std::vector<std::byte>> buffers_;
  std::vector<std::int64_t> available_;
};

std::string summary_of(const SweepHeader& header, const std::vector<SweepRow>& rows) {
  Json all = {header.name, header.resolved, header.provenance};
  for (const auto& row : rows) {
    Json metrics = Json::object();
    for (const auto& [name, value] : row.metrics) metrics[name] = std::isnan(value) ? Json("nan") : Json(value);
    all.push_back({row.id, row.state, row.reason, row.warnings, row.axes, metrics, row.config, row.provenance});
  }
  return all.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

SweepMaking write_sweep(const comm::Communicator& communicator, const std::filesystem::path& path, const SweepHeader& header,
                        const SweepSource& source, const std::filesystem::path& earlier) {
  communicator.agree(
      [&] {
        for (std::size_t i = 0; i + 1 < source.trials.size(); ++i)
          MOESWEEP_ASSERT(source.trials[i].id < source.trials[i + 1].id, "the rows of an aggregate are in order of their ids, each once");
      },
      "rows of an aggregate");
  Sha256 hash;
  for (const auto* text : {&header.name, &header.resolved, &header.provenance}) hash.add(sha256_hex(*text));
  for (const auto& trial : source.trials) hash.add(trial.id).add("\n").add(trial.file.string()).add("\n").add(trial.published.sha256).add("\n");
  require_same(communicator, hash.hex(), "the rows of an aggregate");
  SweepMaking making;
  std::string refused;
  std::optional<EarlierSweep> old;
  if (!earlier.empty()) old = EarlierSweep::open(communicator, earlier, refused);
  write_together(
      communicator, path, [&](CollectiveFile& file) { making = Writer(communicator, file, source, old).write(); },
      static_cast<std::int64_t>(header.name.size() + header.resolved.size() + header.provenance.size()),
      [&](hid_t file) {
        write_format(file, kSweepFormat);
        write_text(file, "header/name", header.name, "the sweep's name");
        write_text(file, "header/resolved", header.resolved, "the sweep as resolved, JSON");
        write_text(file, "header/provenance", header.provenance, "where and with what the sweep was aggregated, JSON");
      });
  making.earlier_refused = refused;
  return making;
}

SweepMaking write_sweep(const comm::Communicator& communicator, const std::filesystem::path& path, const SweepHeader& header,
                        const std::vector<SweepRow>& rows, const std::filesystem::path& earlier) {
  require_same(communicator, summary_of(header, rows), "the rows of an aggregate");
  SweepSource source;
  for (const auto& row : rows) source.trials.push_back({row.id, row.trial_file, row.published});
  source.row = [&rows](std::size_t i, const TrialRecord*) { return rows[i]; };
  return write_sweep(communicator, path, header, source, earlier);
}

}  // namespace moesweep::store
