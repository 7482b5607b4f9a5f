// See earlier.hpp.
#include "earlier.hpp"

#include <algorithm>
#include <cstring>

#include "collective.hpp"
#include "moesweep/core/checked.hpp"
#include "moesweep/core/foreign_json.hpp"
#include "ragged.hpp"

namespace moesweep::store {

namespace {

std::vector<std::byte> read_part(hid_t file, const Description& d, std::int64_t first, std::int64_t count) {
  if (first < 0 || count < 0 || checked_sum(first, count) > d.rows())
    throw Error(ErrorKind::corrupt, "dataset " + d.path + ": it is shorter than its offsets say");
  std::vector<std::byte> bytes(static_cast<std::size_t>(checked_product(count, static_cast<std::int64_t>(d.row_bytes()))));
  const auto dataset = h5::open_dataset(file, d.path);
  if (!bytes.empty()) h5::read_rows(dataset.get(), hdf5_type(d.type).get(), first, count, bytes.data(), d.path);
  return bytes;
}

std::vector<std::int64_t> read_integers(hid_t file, const Description& d, std::int64_t first, std::int64_t count) {
  if (d.type != ElementType{DType::i64, 0}) throw Error(ErrorKind::corrupt, "dataset " + d.path + ": it does not hold i64");
  const auto bytes = read_part(file, d, first, count);
  std::vector<std::int64_t> values(bytes.size() / sizeof(std::int64_t));
  if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

std::string text_at(const std::vector<std::byte>& bytes, std::size_t width, std::size_t i) {
  std::string text(reinterpret_cast<const char*>(bytes.data()) + i * width, width);
  while (!text.empty() && text.back() == '\0') text.pop_back();
  return text;
}

}  // namespace

std::optional<EarlierSweep> EarlierSweep::open(const comm::Communicator& communicator, const std::filesystem::path& path, std::string& refused) {
  EarlierSweep earlier;
  earlier.path_ = path;
  // One rank looks: the answer is the same everywhere, also when the file comes or goes meanwhile.
  std::error_code ignored;
  if (communicator.broadcast(communicator.rank() == 0 && std::filesystem::exists(path, ignored) ? "there" : "", 0, "look for an earlier aggregate")
          .empty())
    return {};
  try {
    std::string claimed;
    require_hdf5_once(communicator, path);
    communicator.agree(
        [&] {
          as_corrupt(path, [&] {
            earlier.file_ = h5::open_file(path);
            const hid_t file = earlier.file_.get();
            require_format(file, kSweepFormat, path);
            if (h5::read_integer_attribute(file, "version") != kSweepFormat.version) throw Error(ErrorKind::corrupt, "it is of an older version");
            claimed = h5::read_text_attribute(file, "digest").value_or("");
            std::vector<std::string> paths = h5::dataset_paths(file);
            if (!std::binary_search(paths.begin(), paths.end(), std::string("trials/digest")))
              throw Error(ErrorKind::corrupt, "it does not say which trial files it was made of");
            earlier.ids_ = read_texts(file, describe(file, "trials/id"));
            earlier.digests_ = read_texts(file, describe(file, "trials/digest"));
            const auto whole = read_numbers<std::uint8_t>(file, describe(file, "trials/whole"), DType::u8);
            earlier.states_ = describe(file, "trials/state");
            earlier.reasons_ = describe(file, "trials/reason");
            for (const auto* d : {&earlier.states_, &earlier.reasons_}) require_column_type(*d);
            earlier.provenances_ = describe(file, "texts/provenance/data");
            earlier.provenance_offsets_ = describe(file, "texts/provenance/offsets");
            if (earlier.digests_.size() != earlier.ids_.size() || whole.size() != earlier.ids_.size() ||
                !std::is_sorted(earlier.ids_.begin(), earlier.ids_.end()))
              throw Error(ErrorKind::corrupt, "its rows do not fit together");
            for (std::size_t i = 0; i < whole.size(); ++i)
              if (whole[i] == 0) earlier.digests_[i].clear();
            for (const auto& name : paths)
              if (name.starts_with("arrays/") && name.ends_with("/data")) {
                const auto group = name.substr(0, name.size() - 5);
                earlier.arrays_.push_back({describe(file, name), describe(file, group + "/offsets"), describe(file, group + "/shapes")});
                const auto& [data, offsets, shapes] = earlier.arrays_.back();
                if (data.shape.size() != 1 || data.type.text_width > 0 || shapes.shape.size() != 2 || shapes.shape[1] < 1)
                  throw Error(ErrorKind::corrupt, "dataset " + name + ": it does not hold joined arrays");
              }
          });
        },
        "opening of the earlier aggregate");
    if (shared_digest(communicator, path, path).digest != claimed)
      throw Error(ErrorKind::corrupt, "the digest does not fit the content", path.string()).thrown_on_every_rank();
    // A right digest says nothing about whether places lie inside their arrays. Ranks share the looking.
    communicator.agree(
        [&] {
          as_corrupt(path, [&] {
            const hid_t file = earlier.file_.get();
            const auto rows = static_cast<std::int64_t>(earlier.ids_.size());
            const auto ranks = static_cast<std::size_t>(communicator.size());
            for (auto i = static_cast<std::size_t>(communicator.rank()); i < earlier.arrays_.size(); i += ranks)
              static_cast<void>(read_places(file, earlier.arrays_[i].data, rows));
            // What it says of a trial must be what that trial's file could say: what is wrong here must not be taken for that file's fault.
            const auto provenances = read_ragged_texts(file, "texts/provenance", rows);
            for (auto i = static_cast<std::size_t>(communicator.rank()); i < provenances.size(); i += ranks)
              if (!provenances[i].empty()) static_cast<void>(parse_json(provenances[i], "texts/provenance/data, row " + std::to_string(i)));
            if (communicator.rank() == 0) {
              std::vector<Description> data;
              for (const auto& array : earlier.arrays_) data.push_back(array.data);
              require_metrics_once(data);
              require_states(read_texts(file, earlier.states_));
            }
            for (const auto* d : {&earlier.states_, &earlier.reasons_})
              if (d->shape.size() != 1 || d->rows() != rows)
                throw Error(ErrorKind::corrupt, "dataset " + d->path + ": it does not have one value per trial");
          });
        },
        "places of the earlier aggregate");
  } catch (const Error& error) {
    if (!error.on_every_rank()) throw;
    refused = error.message();
    return {};
  }
  return earlier;
}

std::optional<std::size_t> EarlierSweep::find(const std::string& id, const std::string& digest) const {
  const auto found = std::lower_bound(ids_.begin(), ids_.end(), id);
  if (digest.empty() || found == ids_.end() || *found != id) return {};
  const auto row = static_cast<std::size_t>(found - ids_.begin());
  return digests_[row] == digest ? std::optional(row) : std::nullopt;
}

std::vector<TrialRecord> EarlierSweep::read(std::size_t first, std::size_t end) const {
  return as_corrupt(path_, [&] {
    const hid_t file = file_.get();
    const auto from = static_cast<std::int64_t>(first), count = static_cast<std::int64_t>(end - first);
    std::vector<TrialRecord> records(end - first);
    const auto states = read_part(file, states_, from, count), reasons = read_part(file, reasons_, from, count);
    const auto places = read_integers(file, provenance_offsets_, from, count + 1);
    const auto provenances = read_part(file, provenances_, places.front(), places.back() - places.front());
    for (std::size_t i = 0; i < records.size(); ++i) {
      records[i].id = ids_[first + i];
      records[i].state = text_at(states, states_.type.text_width, i);
      records[i].reason = text_at(reasons, reasons_.type.text_width, i);
      records[i].provenance.assign(reinterpret_cast<const char*>(provenances.data()) + (places[i] - places.front()),
                                   static_cast<std::size_t>(places[i + 1] - places[i]));
    }
    for (const auto& [d, o, s] : arrays_) {
      const auto offsets = read_integers(file, o, from, count + 1), shapes = read_integers(file, s, from, count);
      const auto bytes = read_part(file, d, offsets.front(), offsets.back() - offsets.front());
      const auto dimensions = static_cast<std::size_t>(s.shape.at(1));
      const std::size_t prefix = std::string_view("arrays/").size();
      const auto path = d.path.substr(prefix, d.path.size() - prefix - std::string_view("/data").size());
      for (std::size_t i = 0; i < records.size(); ++i) {
        std::vector<std::int64_t> shape(shapes.begin() + static_cast<std::ptrdiff_t>(i * dimensions),
                                        shapes.begin() + static_cast<std::ptrdiff_t>((i + 1) * dimensions));
        if (std::all_of(shape.begin(), shape.end(), [](auto dimension) { return dimension == 0; })) continue;  // the trial has none
        const auto at = [&, width = d.type.size()](std::size_t k) {
          return bytes.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(offsets[k] - offsets.front()) * width);
        };
        records[i].arrays.push_back({path, d.type.number, std::move(shape), {at(i), at(i + 1)}, d.unit, d.description, d.metric.value_or(false)});
      }
    }
    return records;
  });
}

}  // namespace moesweep::store
