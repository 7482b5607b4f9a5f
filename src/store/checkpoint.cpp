// Checkpoints: see include/moesweep/store/checkpoint.hpp. Arrays are stored flat, their shape beside them, so that any cut into parts fits.
#include "moesweep/store/checkpoint.hpp"

#include <algorithm>
#include <set>

#include "collective.hpp"
#include "layout.hpp"
#include "moesweep/core/checked.hpp"
#include "trial.hpp"

namespace moesweep::store {

namespace {

constexpr const char* kHeaderPath = "header/checkpoint";
constexpr const char* kRecordPrefix = "record/";
/// What a rank hands in per write, so that memory does not grow with the model.
constexpr std::int64_t kWindowBytesPerRank = std::int64_t{32} << 20;

void check_pieces(const comm::Communicator& communicator, const std::vector<Piece>& pieces) {
  std::string all;
  communicator.agree(
      [&] {
        std::vector<std::string> names;
        for (const auto& piece : pieces) {
          names.push_back(piece.name);
          all += piece.name + "\n" + std::string(name_of(piece.type));
          for (const auto dimension : piece.shape) all += "," + std::to_string(dimension);
          all += "\n";
          MOESWEEP_ASSERT(
              piece.first >= 0 && piece.count >= 0 && piece.first + piece.count <= checked_product(piece.shape) && (piece.count == 0 || piece.data),
              "a part of `" + piece.name + "` reaches beyond it");
        }
        check_paths(names, "header/");
        check_paths(names, kRecordPrefix);
      },
      "pieces of a checkpoint");
  require_same(communicator, all, "the arrays of a checkpoint");
}

}  // namespace

void write_checkpoint(const comm::Communicator& communicator, const std::filesystem::path& path, const std::string& header,
                      const std::vector<Piece>& pieces, const TrialRecord& record) {
  check_pieces(communicator, pieces);
  RecordParts parts;
  std::int64_t finish_bytes = static_cast<std::int64_t>(header.size());
  communicator.agree(
      [&] {
        if (communicator.rank() != 0) return;
        parts = parts_of(record, kRecordPrefix);
        for (const auto& d : parts.descriptions) finish_bytes += static_cast<std::int64_t>(d.bytes()) + 8192;
      },
      "record of a checkpoint");
  write_together(
      communicator, path,
      [&](CollectiveFile& file) {
        std::vector<std::int64_t> available;
        for (const auto& piece : pieces) {
          file.add({piece.name,
                    {piece.type, 0},
                    {checked_product(piece.shape)},
                    "1",
                    "a logical array, row-major; attribute shape is absent for a scalar",
                    {},
                    piece.shape});
          available.push_back(0);
        }
        std::vector<Fragment> mine;
        std::int64_t room = kWindowBytesPerRank * communicator.size();
        const auto send = [&] {
          file.write(mine, available);
          mine.clear();
          room = kWindowBytesPerRank * communicator.size();
        };
        for (std::size_t p = 0; p < pieces.size(); ++p) {
          const auto& piece = pieces[p];
          const auto width = static_cast<std::int64_t>(size_of(piece.type));
          const std::int64_t elements = checked_product(piece.shape);
          for (std::int64_t at = 0; at < elements;) {
            const std::int64_t end = std::min(elements, at + std::max<std::int64_t>(1, room / width));
            const std::int64_t first = std::max(at, piece.first), last = std::min(end, piece.first + piece.count);
            if (first < last) mine.push_back({p, first, last - first, static_cast<const std::byte*>(piece.data) + (first - piece.first) * width});
            available[p] = end;
            room -= (end - at) * width;
            at = end;
            if (room < width) send();
          }
        }
        send();
      },
      finish_bytes,
      [&](hid_t file) {
        write_format(file, kCheckpointFormat);
        write_record_attributes(file, record);
        write_text(file, kHeaderPath, header, "what the checkpoint is of, JSON");
        for (std::size_t i = 0; i < parts.bytes.size(); ++i) write_dataset(file, parts.descriptions[i], parts.bytes[i].data());
      });
}

struct CheckpointReader::State {
  const comm::Communicator* communicator;
  std::filesystem::path path;
  h5::Handle file;
  std::string header;
  TrialRecord record;
  std::map<std::string, Description> arrays;

  const Description& find(const std::string& name) const {
    const auto found = arrays.find(name);
    if (found == arrays.end())
      throw Error(ErrorKind::corrupt, "dataset " + name + ": there is none in this checkpoint", path.string()).thrown_on_every_rank();
    return found->second;
  }
};

CheckpointReader::CheckpointReader(const comm::Communicator& communicator, const std::filesystem::path& path) : state_(std::make_unique<State>()) {
  state_->communicator = &communicator;
  state_->path = path;
  std::string stored;
  require_hdf5_once(communicator, path);
  communicator.agree(
      [&] {
        as_corrupt(path, [&] {
          state_->file = h5::open_file(path);
          const hid_t file = state_->file.get();
          require_format(file, kCheckpointFormat, path);
          stored = h5::read_text_attribute(file, "digest").value_or("");
          const auto descriptions = describe_all(file);
          state_->header = read_text(file, kHeaderPath);
          state_->record = read_record(file, descriptions, kRecordPrefix);
          for (const auto& d : descriptions) {
            if (d.path == kHeaderPath || d.path.rfind(kRecordPrefix, 0) == 0) continue;
            if (d.shape.size() != 1 || d.type.text_width > 0 || checked_product(d.logical.value_or(std::vector<std::int64_t>{})) != d.elements())
              throw Error(ErrorKind::corrupt, "dataset " + d.path + ": its elements do not fit its shape");
            state_->arrays.emplace(d.path, d);
          }
        });
      },
      "opening of a checkpoint");
  if (shared_digest(communicator, path, path).digest != stored)
    throw Error(ErrorKind::corrupt, "the digest does not fit the content", path.string(),
                "the file is damaged: remove it and resume from another one")
        .thrown_on_every_rank();
}

CheckpointReader::~CheckpointReader() = default;
CheckpointReader::CheckpointReader(CheckpointReader&&) noexcept = default;
CheckpointReader& CheckpointReader::operator=(CheckpointReader&&) noexcept = default;

const std::string& CheckpointReader::header() const { return state_->header; }
const TrialRecord& CheckpointReader::record() const { return state_->record; }

std::vector<std::string> CheckpointReader::names() const {
  std::vector<std::string> names;
  for (const auto& [name, description] : state_->arrays) names.push_back(name);
  return names;
}

bool CheckpointReader::has(const std::string& name) const { return state_->arrays.contains(name); }

std::vector<std::int64_t> CheckpointReader::shape(const std::string& name) const {
  return state_->find(name).logical.value_or(std::vector<std::int64_t>{});
}

DType CheckpointReader::type(const std::string& name) const { return state_->find(name).type.number; }

void CheckpointReader::read(const std::string& name, DType type, std::int64_t first, std::int64_t count, void* data) const {
  state_->communicator->agree(
      [&] {
        as_corrupt(state_->path, [&] {
          const auto& d = state_->find(name);
          if (d.type != ElementType{type, 0})
            throw Error(ErrorKind::corrupt, "dataset " + name + ": it holds " + d.type.name() + ", not " + std::string(name_of(type)));
          MOESWEEP_ASSERT(first >= 0 && count >= 0 && first + count <= d.elements(), "a part of `" + name + "` reaches beyond it");
          const auto dataset = h5::open_dataset(state_->file.get(), name);
          h5::read_rows(dataset.get(), hdf5_type(d.type).get(), first, count, data, name);
        });
      },
      "reading of a checkpoint");
}

}  // namespace moesweep::store
