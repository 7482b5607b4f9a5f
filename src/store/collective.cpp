// See collective.hpp.
#include "collective.hpp"

#include <algorithm>
#include <cstring>
#include <exception>
#include <limits>
#include <utility>

#include "moesweep/comm/watchdog.hpp"
#include "moesweep/core/publish.hpp"

namespace moesweep::store {

namespace {

CollectiveStatistics statistics;

// Upper bounds of what a file needs beside its data: at its start and per step of reservation, per dataset, per chunk, per
// attribute `content`.
constexpr std::int64_t kFileBytes = std::int64_t{64} << 10, kDatasetBytes = 8192, kChunkBytes = 256, kContentBytes = 1024;
/// A growing dataset may start empty and become long: its chunks have at least so many rows, if their bytes allow.
constexpr std::int64_t kGrowingRows = 1024;

/// Keeps the first failure of a row of collective calls, all of which must be made.
class FirstFailure {
 public:
  template <class Call>
  void run(Call&& call) {
    try {
      call();
    } catch (...) {
      if (!failure_) failure_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  std::exception_ptr failure_;
};

/// In front of each run of rows in the exchange.
struct Envelope {
  std::uint64_t dataset;
  std::int64_t first, rows;
};

void append(std::vector<std::byte>& bytes, const void* data, std::size_t size) {
  const auto* first = static_cast<const std::byte*>(data);
  bytes.insert(bytes.end(), first, first + size);
}

}  // namespace

CollectiveStatistics collective_statistics() { return statistics; }

CollectiveFile::CollectiveFile(const comm::Communicator& communicator, const std::filesystem::path& path, const std::filesystem::path& shown)
    : communicator_(communicator), temporary_(path), path_(shown) {
  reserve_for(kFileBytes);  // before there is a file for HDF5 to close
  reserved_bytes_ = 0;
  try {
    const comm::watchdog::Guard guard("creation of a shared file");
    communicator_.agree([&] { as_io(path_, [&] { file_ = h5::create_parallel_file(path, communicator_.native()); }); }, "creation of a shared file");
    reserve_for(0);  // again, since creation cuts the file to nothing
  } catch (...) {
    abandon();
    throw;
  }
}

void CollectiveFile::reserve_for(std::int64_t more_bytes) {
  needed_bytes_ += more_bytes;
  if (needed_bytes_ <= reserved_bytes_) return;
  reserved_bytes_ = needed_bytes_ + kFileBytes;
  communicator_.agree(
      [&] {
        if (communicator_.rank() == 0) reserve(temporary_, path_, reserved_bytes_);
      },
      "reservation of disk space");
}

CollectiveFile::~CollectiveFile() {
  // Closing a shared file communicates, which unwinding must not: an open one is left to the end of the process.
  file_.release();
}

std::int64_t CollectiveFile::storage_bytes(const Dataset& dataset, std::int64_t rows) {
  const std::int64_t chunks = (rows + dataset.chunk - 1) / dataset.chunk;
  return chunks * (dataset.chunk * static_cast<std::int64_t>(dataset.description.row_bytes()) + kChunkBytes);
}

std::size_t CollectiveFile::add(const Description& description, bool growing, std::int64_t expected_rows, std::size_t chunk_bytes) {
  Dataset dataset;
  dataset.description = description;
  dataset.growing = growing;
  const std::int64_t rows = growing ? std::max(expected_rows, kGrowingRows) : description.rows();
  dataset.chunk = std::clamp<std::int64_t>(rows, 1, chunk_rows(description, growing ? chunk_bytes : kBlockBytes));
  h5::Creation creation;
  for (const auto dimension : description.shape) creation.shape.push_back(static_cast<hsize_t>(dimension));
  creation.chunk = creation.shape;
  for (auto& dimension : creation.chunk) dimension = std::max<hsize_t>(dimension, 1);
  creation.chunk[0] = static_cast<hsize_t>(dataset.chunk);
  creation.compress = description.type.text_width > 0;
  if (growing) {
    creation.shape[0] = 0;
    creation.maximum = creation.shape;
    creation.maximum[0] = H5S_UNLIMITED;
  }
  // HDF5 1.10 places the chunks of a shared file when a dataset is made or grows.
  reserve_for(kDatasetBytes + 2 * static_cast<std::int64_t>(description.unit.size() + description.description.size()) +
              (growing ? 0 : storage_bytes(dataset, description.rows())));
  communicator_.agree(
      [&] {
        as_io(path_, [&] {
          dataset.type = hdf5_type(description.type);
          dataset.handle = h5::create_dataset(file_.get(), description.path, dataset.type.get(), creation);
          write_attributes(dataset.handle.get(), description);
        });
      },
      "creation of a dataset");
  datasets_.push_back(std::move(dataset));
  return datasets_.size() - 1;
}

CollectiveFile::Range CollectiveFile::owned(std::size_t index, std::int64_t limit, int rank) const {
  const auto& dataset = datasets_[index];
  const std::int64_t size = communicator_.size();
  const std::int64_t chunks = (limit - dataset.written + dataset.chunk - 1) / dataset.chunk;
  // Rotated, so that datasets of a single chunk do not all fall to one rank.
  const std::int64_t place = (rank + static_cast<std::int64_t>(index)) % size;
  const auto at = [&](std::int64_t chunk) { return std::min(limit, dataset.written + chunk * dataset.chunk); };
  return {at(chunks * place / size), at(chunks * (place + 1) / size)};
}

std::vector<std::byte> CollectiveFile::exchange(const std::vector<std::vector<std::byte>>& outgoing) const {
  const auto size = static_cast<std::size_t>(communicator_.size());
  std::vector<int> send_counts(size), send_starts(size), receive_counts(size), receive_starts(size);
  std::vector<std::byte> sent;
  std::size_t total = 0;
  for (const auto& part : outgoing) total += part.size();
  communicator_.agree(
      [&] {
        if (total > static_cast<std::size_t>(std::numeric_limits<int>::max()))
          throw Error(ErrorKind::internal, "more than 2 GiB to exchange at once", path_.string());
      },
      "size of an exchange");
  sent.reserve(total);
  for (std::size_t r = 0; r < size; ++r) {
    send_starts[r] = static_cast<int>(sent.size());
    send_counts[r] = static_cast<int>(outgoing[r].size());
    sent.insert(sent.end(), outgoing[r].begin(), outgoing[r].end());
  }
  const comm::watchdog::Guard guard("exchange of rows");
  comm::check(MPI_Alltoall(send_counts.data(), 1, MPI_INT, receive_counts.data(), 1, MPI_INT, communicator_.native()), "MPI_Alltoall");
  std::int64_t length = 0;
  for (std::size_t r = 0; r < size; ++r) {
    receive_starts[r] = static_cast<int>(length);
    length += receive_counts[r];
  }
  communicator_.agree(
      [&] {
        if (length > std::numeric_limits<int>::max()) throw Error(ErrorKind::internal, "more than 2 GiB to exchange at once", path_.string());
      },
      "size of an exchange");
  std::vector<std::byte> received(static_cast<std::size_t>(length));
  comm::check(MPI_Alltoallv(sent.data(), send_counts.data(), send_starts.data(), MPI_BYTE, received.data(), receive_counts.data(),
                            receive_starts.data(), MPI_BYTE, communicator_.native()),
              "MPI_Alltoallv");
  return received;
}

void CollectiveFile::write(const std::vector<Fragment>& mine, const std::vector<std::int64_t>& available) {
  for (std::size_t d = 0; d < available.size(); ++d) datasets_[d].available = std::max(datasets_[d].available, available[d]);
  write_due(mine, false);
}

void CollectiveFile::write_due(const std::vector<Fragment>& mine, bool all) {
  // What is due, known to every rank alike.
  std::vector<std::int64_t> limits;
  for (const auto& dataset : datasets_) {
    const std::int64_t whole = dataset.available / dataset.chunk * dataset.chunk;
    limits.push_back(all || (!dataset.growing && dataset.available == dataset.description.rows()) ? dataset.available
                                                                                                  : std::max(whole, dataset.written));
  }

  std::int64_t bytes = 0;
  for (std::size_t d = 0; d < datasets_.size(); ++d)
    if (datasets_[d].growing || datasets_[d].description.type.text_width > 0) bytes += storage_bytes(datasets_[d], limits[d] - datasets_[d].written);
  reserve_for(bytes);

  // Rows that are due travel to the owners of their chunks; the others are kept.
  std::vector<std::vector<std::byte>> outgoing(static_cast<std::size_t>(communicator_.size()));
  const auto send = [&](std::size_t d, std::int64_t first, std::int64_t rows, const std::byte* data) {
    const std::size_t row = datasets_[d].description.row_bytes();
    const std::int64_t due = std::clamp<std::int64_t>(limits[d] - first, 0, rows);
    for (int r = 0; due > 0 && r < communicator_.size(); ++r) {
      const auto range = owned(d, limits[d], r);
      const std::int64_t begin = std::max(first, range.first), end = std::min(first + due, range.end);
      if (begin >= end) continue;
      auto& out = outgoing[static_cast<std::size_t>(r)];
      const Envelope envelope{d, begin, end - begin};
      append(out, &envelope, sizeof envelope);
      append(out, data + static_cast<std::size_t>(begin - first) * row, static_cast<std::size_t>(end - begin) * row);
    }
    if (due < rows) {
      const auto* rest = data + static_cast<std::size_t>(due) * row;
      datasets_[d].kept.push_back({first + due, rows - due, {rest, rest + static_cast<std::size_t>(rows - due) * row}});
    }
  };
  communicator_.agree(
      [&] {
        for (std::size_t d = 0; d < datasets_.size(); ++d) {
          if (limits[d] <= datasets_[d].written) continue;
          for (const auto& part : std::exchange(datasets_[d].kept, {})) send(d, part.first, part.rows, part.bytes.data());
        }
        for (const auto& part : mine) send(part.dataset, part.first, part.rows, part.data);
      },
      "packing of rows");
  const auto received = exchange(outgoing);
  outgoing.clear();

  // Unpack into one run of rows per dataset, and see that each row came once.
  std::vector<std::vector<std::byte>> buffers(datasets_.size());
  communicator_.agree(
      [&] {
        std::vector<std::vector<std::pair<std::int64_t, std::int64_t>>> runs(datasets_.size());
        for (std::size_t d = 0; d < datasets_.size(); ++d) {
          const auto range = owned(d, limits[d], communicator_.rank());
          buffers[d].resize(static_cast<std::size_t>(range.end - range.first) * datasets_[d].description.row_bytes());
        }
        for (std::size_t at = 0; at < received.size();) {
          Envelope envelope{};
          std::memcpy(&envelope, received.data() + at, sizeof envelope);
          at += sizeof envelope;
          const auto d = static_cast<std::size_t>(envelope.dataset);
          const std::size_t row = datasets_[d].description.row_bytes(), length = static_cast<std::size_t>(envelope.rows) * row;
          const auto range = owned(d, limits[d], communicator_.rank());
          std::memcpy(buffers[d].data() + static_cast<std::size_t>(envelope.first - range.first) * row, received.data() + at, length);
          at += length;
          runs[d].emplace_back(envelope.first, envelope.first + envelope.rows);
        }
        for (std::size_t d = 0; d < datasets_.size(); ++d) {
          const auto range = owned(d, limits[d], communicator_.rank());
          std::sort(runs[d].begin(), runs[d].end());
          std::int64_t next = range.first;
          for (const auto& [first, end] : runs[d]) next = first == next ? end : -1;
          if (next != range.end && range.first < range.end)
            throw Error(ErrorKind::internal, "the ranks' parts of " + datasets_[d].description.path + " do not tile it", path_.string());
        }
      },
      "tiling of rows");

  // A rank whose call fails still makes the remaining ones: the others wait for it in them.
  FirstFailure failure;
  {
    const comm::watchdog::Guard guard("collective write");
    for (std::size_t d = 0; d < datasets_.size(); ++d) {
      auto& dataset = datasets_[d];
      if (limits[d] <= dataset.written) continue;
      const auto range = owned(d, limits[d], communicator_.rank());
      const auto& path = dataset.description.path;
      if (dataset.growing) {
        dataset.description.shape[0] = limits[d];
        h5::Shape shape;
        for (const auto dimension : dataset.description.shape) shape.push_back(static_cast<hsize_t>(dimension));
        failure.run([&] { h5::extend(dataset.handle.get(), shape, path); });
      }
      failure.run([&] {
        ++statistics.writes;
        if (!h5::write_rows_collectively(dataset.handle.get(), dataset.type.get(), range.first, range.end - range.first, buffers[d].data(), path))
          ++statistics.independent;
      });
      dataset.written = limits[d];
    }
  }
  communicator_.agree([&] { as_io(path_, [&] { failure.rethrow(); }); }, "collective write");
}

void CollectiveFile::close() {
  write_due({}, true);
  FirstFailure failure;
  {
    const comm::watchdog::Guard guard("closing of a shared file");
    datasets_.clear();
    failure.run([&] { h5::flush(file_.get()); });
    failure.run([&] { h5::close_file(file_); });
  }
  communicator_.agree([&] { as_io(path_, [&] { failure.rethrow(); }); }, "closing of a shared file");
}

void CollectiveFile::abandon() noexcept {
  datasets_.clear();
  file_.close();
}

std::pair<std::int64_t, std::int64_t> share_of(const comm::Communicator& communicator, std::int64_t rows) {
  return {rows * communicator.rank() / communicator.size(), rows * (communicator.rank() + 1) / communicator.size()};
}

void require_hdf5_once(const comm::Communicator& communicator, const std::filesystem::path& path) {
  communicator.agree(
      [&] {
        if (communicator.rank() == 0) require_hdf5(path);
      },
      "check of a file");
}

FileDigest shared_digest(const comm::Communicator& communicator, const std::filesystem::path& path, const std::filesystem::path& shown) {
  FileDigest result;
  std::map<std::string, std::string> attributes;
  std::string mine;
  communicator.agree(
      [&] {
        as_corrupt(shown, [&] {
          const auto file = h5::open_file(path);
          attributes = root_attributes(file.get());
          result.descriptions = describe_all(file.get());
          std::int64_t total = 0;
          for (const auto& d : result.descriptions) total += blocks_of(d);
          const auto [begin, end] = share_of(communicator, total);
          std::int64_t first = 0;  // of the dataset, among all blocks
          for (const auto& d : result.descriptions) {
            const std::int64_t blocks = blocks_of(d);
            const std::int64_t from = std::max(begin, first), to = std::min(end, first + blocks);
            if (from < to) mine += block_digests(file.get(), d, from - first, to - from);
            first += blocks;
          }
        });
      },
      "reading back");
  std::string all;
  for (const auto& part : communicator.all_gather(mine, "digests of blocks")) all += part;
  constexpr std::size_t kDigits = 64;
  std::size_t at = 0;
  for (const auto& d : result.descriptions) {
    const auto length = static_cast<std::size_t>(blocks_of(d)) * kDigits;
    result.contents.push_back(content_of(all.substr(std::min(at, all.size()), length)));
    at += length;
    if (d.content && *d.content != result.contents.back())
      throw Error(ErrorKind::corrupt, "dataset " + d.path + ": its digest does not fit its content", shown.string()).thrown_on_every_rank();
  }
  result.digest = digest_of(attributes, result.descriptions, result.contents);
  return result;
}

void write_together(const comm::Communicator& communicator, const std::filesystem::path& path, const std::function<void(CollectiveFile&)>& fill,
                    std::int64_t finish_bytes, const std::function<void(hid_t)>& finish) {
  const std::filesystem::path temporary = communicator.broadcast(temporary_beside(path).string(), 0, "temporary name");
  const auto on_first = [&](const std::function<void()>& work, const char* what) {
    communicator.agree(
        [&] {
          if (communicator.rank() == 0) as_io(path, work);
        },
        what);
  };
  on_first(
      [&] {
        require_replaceable(path);
        create_exclusively(temporary, path);
      },
      "making of a shared file");
  try {
    {
      CollectiveFile file(communicator, temporary, path);
      try {
        fill(file);
        file.close();
      } catch (...) {
        file.abandon();  // every rank comes here, since every failure is agreed on
        throw;
      }
    }
    on_first(
        [&] {
          reserve(temporary, path, static_cast<std::int64_t>(std::filesystem::file_size(temporary)) + finish_bytes + 2 * kFileBytes);
          auto file = h5::open_file_to_change(temporary);
          finish(file.get());
          h5::flush(file.get());
          h5::close_file(file);
        },
        "end of a shared file");
    const FileDigest found = shared_digest(communicator, temporary, path);
    on_first(
        [&] {
          const auto more = kFileBytes + kContentBytes * static_cast<std::int64_t>(found.descriptions.size());
          reserve(temporary, path, static_cast<std::int64_t>(std::filesystem::file_size(temporary)) + more);
          auto file = h5::open_file_to_change(temporary);
          for (std::size_t i = 0; i < found.descriptions.size(); ++i) {
            const auto& d = found.descriptions[i];
            if (!d.content) h5::write_text_attribute(h5::open_dataset(file.get(), d.path).get(), "content", found.contents[i]);
          }
          h5::write_text_attribute(file.get(), "digest", found.digest);
          h5::flush(file.get());
          h5::close_file(file);
          publish(temporary, path);
        },
        "publishing");
  } catch (...) {
    std::error_code ignored;
    if (communicator.rank() == 0) std::filesystem::remove(temporary, ignored);
    throw;
  }
}

void require_same(const comm::Communicator& communicator, const std::string& text, const char* what) {
  const auto all = communicator.all_gather(sha256_hex(text), what);
  for (const auto& digest : all)
    if (digest != all.front()) throw Error(ErrorKind::internal, std::string(what) + " differ between the ranks").thrown_on_every_rank();
}

}  // namespace moesweep::store
