// What all files of this room share: how a dataset describes itself, the formats' names and versions, and the digest over a file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hdf5.hpp"
#include "moesweep/core/dtype.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/core/hash.hpp"
#include "moesweep/store/record.hpp"

namespace moesweep::store {

/// A format's name and the newest version that this build reads and writes.
struct Format {
  const char* name;
  std::int64_t version;
};
inline constexpr Format kTrialFormat{"moesweep-trial", 1};
inline constexpr Format kTraceFormat{"moesweep-trace", 1};
inline constexpr Format kCheckpointFormat{"moesweep-checkpoint", 2};
inline constexpr Format kSweepFormat{"moesweep-sweep", 1};

/// A number type, or fixed-length text of `text_width` bytes.
struct ElementType {
  DType number = DType::u8;
  std::size_t text_width = 0;  ///< 0 for numbers

  std::size_t size() const { return text_width > 0 ? text_width : size_of(number); }
  std::string name() const { return text_width > 0 ? "s" + std::to_string(text_width) : std::string(name_of(number)); }
  bool operator==(const ElementType&) const = default;
};

/// A dataset as its header describes it.
struct Description {
  std::string path;
  ElementType type;
  std::vector<std::int64_t> shape;
  std::string unit, description;
  std::optional<bool> metric;                        ///< absent where the notion makes no sense
  std::optional<std::vector<std::int64_t>> logical;  ///< attribute `shape`: of the array whose row-major flattening this is
  std::optional<std::string> content = {};           ///< attribute `content`: the digest of its content; older files have none

  std::int64_t rows() const { return shape.empty() ? 1 : shape[0]; }
  // Sizes that cannot overflow unseen: a `corrupt` error otherwise.
  std::int64_t elements() const;
  std::size_t row_bytes() const;
  std::size_t bytes() const;
};

/// The HDF5 type that stores it, which is also its type in memory: nothing is ever converted.
h5::Handle hdf5_type(const ElementType& type);
/// The reverse; throws a `corrupt` error for a type that no moesweep file holds.
ElementType element_type(hid_t type, const std::string& path);

/// Rows of the first dimension that make a chunk of about `target_bytes`, at least one; a power of two unless the dataset is smaller.
std::int64_t chunk_rows(const Description& description, std::size_t target_bytes);

h5::Handle create(hid_t file, const Description& description);
void write_attributes(hid_t dataset, const Description& description);
/// Creates and writes a dataset in one process, with the digest of its content.
void write_dataset(hid_t file, const Description& description, const void* data);
void write_text(hid_t file, const std::string& path, const std::string& text, const std::string& description);
/// What a dataset of a file of ours says of itself. A `corrupt` error unless it can be read without surprise (`h5::require_plain`).
Description describe(hid_t file, const std::string& path);
/// The same of an open dataset.
struct Opened {};
inline constexpr Opened kOpened{};
Description describe(hid_t dataset, const std::string& path, Opened);
/// Descriptions of all datasets, in path order; every link was looked at.
std::vector<Description> describe_all(hid_t file);
/// The bytes of a dataset, checked against its `content` where it has one.
std::vector<std::byte> read_dataset(hid_t file, const Description& description);
/// A [bytes] u8 dataset as text.
std::string read_text(hid_t file, const std::string& path);
/// A fixed-length text dataset; trailing zero bytes are no part of a text.
std::vector<std::string> read_texts(hid_t file, const Description& description);

/// Writes the root attributes `format` and `version`.
void write_format(hid_t file, const Format& format);
/// The `corrupt` error about a file of a newer version, which is no damage.
class NewerFormat : public Error {
 public:
  using Error::Error;
};

/// Throws `corrupt` when the file is of another format, `NewerFormat` when it is of a newer version.
void require_format(hid_t file, const Format& format, const std::filesystem::path& path);
/// The format that the file says it has; empty when it says none.
std::string format_of(hid_t file);

/// Texts that become attributes stay short: cut at a character's border, with ` ...` at the end.
std::string shortened(const std::string& text, std::size_t bytes);

/// Names that can be a path inside a file: no empty part, no `.`; each once, none inside another, none in `reserved`. `internal` errors.
void check_paths(const std::vector<std::string>& paths, const std::string& reserved);

/// What to do about a damaged file.
inline constexpr const char* kMakeAgain =
    "the file is damaged: remove it, then make it again: moesweep run (trial.h5), moesweep aggregate (sweep.h5)";

/// The sizes in a file are checked before anything is allocated: that memory ran out says nothing about the file. An `io` error.
[[noreturn]] void throw_memory_ran_out(const std::filesystem::path& path);

/// Runs `read` and turns every failure into a `corrupt` error that names file and dataset; errors that name the file already pass.
template <class Read>
auto as_corrupt(const std::filesystem::path& path, Read&& read) {
  try {
    return read();
  } catch (const h5::Failure& failure) {
    if (failure.out_of_memory()) throw_memory_ran_out(path);
    const std::string where = failure.object().empty() ? "" : "dataset " + failure.object() + ": ";
    throw Error(ErrorKind::corrupt, where + failure.what(), path.string(), kMakeAgain);
  } catch (const Error& error) {
    if (!error.where().empty()) throw;
    throw Error(error.kind(), error.message(), path.string(), error.hint());
  } catch (const std::bad_alloc&) {
    throw_memory_ran_out(path);
  } catch (const std::length_error&) {
    throw Error(ErrorKind::corrupt, "a size inside the file is impossible", path.string(), kMakeAgain);
  }
}

/// Runs `write` and turns every failure of HDF5 into an `io` error that names the file.
template <class Write>
auto as_io(const std::filesystem::path& path, Write&& write) {
  try {
    return write();
  } catch (const h5::Failure& failure) {
    const std::string where = failure.object().empty() ? "" : "dataset " + failure.object() + ": ";
    throw Error(
        ErrorKind::io, "cannot write: " + where + failure.what(), path.string(),
        "if the disk or the quota is full, free space; if the folder is not writable, choose another with --out; then run the same command again");
  }
}

// ---- digest -------------------------------------------------------------------------------------------------------------------------
// SHA-256 over netstrings (LENGTH:BYTES,), defined in analysis/FORMAT.md. The content of a dataset enters as one digest, which its attribute
// `content` keeps: so the digest of a file can be checked without reading any content, and a content by itself. It is made of digests of blocks, so
// that ranks can share the work.

inline constexpr std::size_t kBlockBytes = std::size_t{1} << 20;

std::int64_t blocks_of(const Description& description);
/// The digests of all blocks of `bytes`, 64 hexadecimal digits each, joined.
std::string block_digests(std::span<const std::byte> bytes);
/// The same for blocks [first, first + count) of a dataset on disk, in bounded memory for rows of up to a block.
std::string block_digests(hid_t file, const Description& description, std::int64_t first, std::int64_t count);
/// The digest of a content, of its blocks' digests.
std::string content_of(const std::string& blocks);
/// Reads a whole dataset, in bounded memory, and compares it with its `content`; a `corrupt` error names it.
void check_content(hid_t file, const Description& description);
/// Root attributes other than `digest`, as text.
std::map<std::string, std::string> root_attributes(hid_t file);
/// `contents[i]` is that of `descriptions[i]`, which are in path order.
std::string digest_of(const std::map<std::string, std::string>& attributes, const std::vector<Description>& descriptions,
                      const std::vector<std::string>& contents);
/// Checks the file's attribute `digest` against its root attributes and the descriptions of all its datasets. Contents are taken from the
/// attributes `content`, which is checked when a dataset is read; of an older file without them every content is read. A `corrupt` error
/// otherwise, also when some datasets have a `content` and others not. `path` is for messages.
void check_digest(hid_t file, const std::vector<Description>& descriptions, const std::filesystem::path& path);

// ---- files --------------------------------------------------------------------------------------------------------------------------

/// The whole file; an `io` error when it cannot be read, a `corrupt` one when it is empty or not HDF5.
std::vector<std::byte> load_file(const std::filesystem::path& path);
/// Refuses a missing or unreadable file (`io`), and what is empty, not HDF5, or ends a process that reads it (`corrupt`): see file_check.hpp.
/// Every file that is opened by name goes through here first.
void require_hdf5(const std::filesystem::path& path, h5::Origin origin = h5::Origin::ours);
/// Makes sure that the first `bytes` of an existing file have their place on the disk, so that HDF5 never meets a full one: it survives none.
/// File systems that cannot reserve let it pass. `io` errors name `shown`.
void reserve(const std::filesystem::path& path, const std::filesystem::path& shown, std::int64_t bytes);

/// A trial record inside `prefix` of a file: its parts in path order, ready for writing and for the digest.
struct RecordParts {
  std::vector<Description> descriptions;
  std::vector<std::span<const std::byte>> bytes;

  std::vector<std::string> contents() const;
};
RecordParts parts_of(const TrialRecord& record, const std::string& prefix);

}  // namespace moesweep::store
