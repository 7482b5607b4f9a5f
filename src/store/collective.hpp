// A file that all ranks of a communicator write together. Ranks hand in rows wherever they hold them; before each write the rows travel to
// the rank that owns their chunk, so that no two ranks ever touch one chunk and every write is collective.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "layout.hpp"
#include "moesweep/comm/mpi.hpp"

namespace moesweep::store {

/// Rows [first, first + rows) of a dataset, held by this rank.
struct Fragment {
  std::size_t dataset = 0;  ///< as `add` numbered it
  std::int64_t first = 0, rows = 0;
  const std::byte* data = nullptr;
};

/// How many collective writes this rank took part in since the start of the process, and how many HDF5 carried out independently.
struct CollectiveStatistics {
  std::int64_t writes = 0, independent = 0;
};
CollectiveStatistics collective_statistics();

inline constexpr std::size_t kGrowingChunkBytes = std::size_t{256} << 10;

/// Every member is collective and throws on every rank or on none; the destructor communicates nothing. After an error call `abandon`.
class CollectiveFile {
 public:
  /// Messages name `shown`, the name under which the file will be published.
  CollectiveFile(const comm::Communicator& communicator, const std::filesystem::path& path, const std::filesystem::path& shown);
  ~CollectiveFile();
  CollectiveFile(const CollectiveFile&) = delete;

  /// Adds a dataset and gives its number. A growing one starts with no rows; `expected_rows` then sets the size of its chunks, which hold about
  /// `chunk_bytes` at most: a rank keeps less than one chunk of each.
  std::size_t add(const Description& description, bool growing = false, std::int64_t expected_rows = 0, std::size_t chunk_bytes = kGrowingChunkBytes);
  /// By now the ranks have handed in, each row once, the rows [0, available[d]) of each dataset d. Whole chunks are written, the rest is kept.
  void write(const std::vector<Fragment>& mine, const std::vector<std::int64_t>& available);
  /// Writes what was kept, flushes and closes.
  void close();
  /// Closes without caring for the content.
  void abandon() noexcept;

 private:
  struct Dataset {
    Description description;
    h5::Handle handle, type;
    bool growing = false;
    std::int64_t chunk = 1, available = 0, written = 0;
    struct Kept {
      std::int64_t first, rows;
      std::vector<std::byte> bytes;
    };
    std::vector<Kept> kept;
  };
  struct Range {
    std::int64_t first = 0, end = 0;
  };
  /// The rows of `dataset` that rank `rank` writes when the rows up to `limit` are due.
  Range owned(std::size_t dataset, std::int64_t limit, int rank) const;
  void write_due(const std::vector<Fragment>& mine, bool all);
  /// An upper bound of what whole chunks for so many rows take.
  static std::int64_t storage_bytes(const Dataset& dataset, std::int64_t rows);
  /// Collective. Reserves disk for what is about to be written.
  void reserve_for(std::int64_t more_bytes);
  std::vector<std::byte> exchange(const std::vector<std::vector<std::byte>>& outgoing) const;

  const comm::Communicator& communicator_;
  std::filesystem::path temporary_, path_;
  std::int64_t needed_bytes_ = 0, reserved_bytes_ = 0;
  h5::Handle file_;
  std::vector<Dataset> datasets_;
};

/// Collective. Splits rows [0, rows) evenly: this rank's part.
std::pair<std::int64_t, std::int64_t> share_of(const comm::Communicator& communicator, std::int64_t rows);

/// Collective. `require_hdf5`, where one rank looks for all.
void require_hdf5_once(const comm::Communicator& communicator, const std::filesystem::path& path);

/// The digest of a file, and of each dataset's content.
struct FileDigest {
  std::vector<Description> descriptions;
  std::vector<std::string> contents;
  std::string digest;
};

/// Collective. Reads all of a closed file; ranks share the reading. Contents that do not fit their attribute `content` are a `corrupt` error on every
/// rank. Messages name `shown`.
FileDigest shared_digest(const comm::Communicator& communicator, const std::filesystem::path& path, const std::filesystem::path& shown);

/// Collective. Makes `path` in one go: `fill` writes datasets together, `finish` adds the rest, at most `finish_bytes`, on rank 0 alone; then digest
/// and publishing. On any rank's failure every rank throws, the temporary file goes and the old file stays.
void write_together(const comm::Communicator& communicator, const std::filesystem::path& path, const std::function<void(CollectiveFile&)>& fill,
                    std::int64_t finish_bytes, const std::function<void(hid_t)>& finish);

/// Collective. Throws an `internal` error everywhere when the ranks' texts differ.
void require_same(const comm::Communicator& communicator, const std::string& text, const char* what);

}  // namespace moesweep::store
