// The one place where HDF5 is called: each call behind a checked wrapper, handles that close themselves, no printing of the error stack.
// HDF5 is not thread-safe here: one thread of a process at a time.
#pragma once

#include <hdf5.h>
#include <mpi.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace moesweep::store::h5 {

/// A failed HDF5 call in HDF5's own words: the innermost description of its error stack. The room's doors turn it into an `Error`.
class Failure : public std::runtime_error {
 public:
  Failure(const char* call, std::string object);
  const std::string& object() const { return object_; }  ///< the path inside the file, may be empty
  bool out_of_memory() const { return out_of_memory_; }  ///< HDF5 could not allocate: says nothing about the file

 private:
  struct Cause {
    std::string text;
    bool out_of_memory = false;
  };
  static Cause innermost();
  Failure(const char* call, std::string object, const Cause& cause);
  std::string object_;
  bool out_of_memory_ = false;
};

/// Owns one HDF5 identifier. The destructor closes quietly; files opened over MPI are closed with `close_file`, never by unwinding.
class Handle {
 public:
  using Closer = herr_t (*)(hid_t);
  Handle() = default;
  Handle(hid_t id, Closer closer) : id_(id), closer_(closer) {}
  Handle(Handle&& other) noexcept;
  Handle& operator=(Handle&& other) noexcept;
  Handle(const Handle&) = delete;
  ~Handle() { close(); }
  hid_t get() const { return id_; }
  explicit operator bool() const { return id_ >= 0; }
  herr_t close() noexcept;
  /// Gives the identifier up without closing it.
  void release() noexcept { id_ = -1; }

 private:
  hid_t id_ = -1;
  Closer closer_ = nullptr;
};

using Shape = std::vector<hsize_t>;

// Files.
/// Builds a file in memory and gives its bytes: no HDF5 call can meet a full disk. `fill` gets the file's identifier.
std::vector<std::byte> build_image(const std::function<void(hid_t)>& fill);
/// Opens the bytes of a file, read-only. They are not copied: they must stay until the file is closed.
Handle open_image(std::span<const std::byte> bytes);
/// Opens a file of this disk for reading.
Handle open_file(const std::filesystem::path& path);
/// Opens a file of this disk for changes by one process.
Handle open_file_to_change(const std::filesystem::path& path);
/// Collective over `comm`: creates a file that all its ranks write.
Handle create_parallel_file(const std::filesystem::path& path, MPI_Comm comm);
void flush(hid_t file);
/// Closes and reports what went wrong; collective for a parallel file.
void close_file(Handle& file);

// Types and spaces.
Handle fixed_text_type(std::size_t width);
Handle bf16_type();
Handle dataspace(const Shape& current, const Shape& maximum = {});

// Groups, links.
/// Makes the groups above `path` that are missing.
void make_parents(hid_t file, const std::string& path);
Handle open_group(hid_t parent, const std::string& name);
/// Names of the links of a group; no object is looked at. `path` is for messages. A `corrupt` error names a link that is not hard: it would be
/// followed to another place, maybe in another file.
std::vector<std::string> links_of(hid_t group, const std::string& path);
/// Whether a group has a group, not a dataset or what else there is, under this name.
bool is_group(hid_t parent, const std::string& name);
/// Paths of all datasets below the root, sorted by bytes, without a leading slash. Every object is looked at, none is opened by a path: `corrupt`
/// errors name links that are not hard, objects that have two names, objects that are neither group nor dataset, and a nesting that is too deep.
/// Readers call it before they open anything by its path.
std::vector<std::string> dataset_paths(hid_t file);

// Datasets. All that we write are chunked and carry fletcher32.
struct Creation {
  Shape shape, maximum, chunk;  ///< an empty `maximum` means `shape`
  bool compress = false;
};
Handle create_dataset(hid_t file, const std::string& path, hid_t type, const Creation& creation);
Handle open_dataset(hid_t file, const std::string& path);
Shape shape_of(hid_t dataset, const std::string& path);
Handle type_of(hid_t dataset, const std::string& path);
/// Who wrote a file decides what it may hold: ours are chunked with fletcher32 throughout; of others, contiguous and compact datasets are read too.
enum class Origin { ours, foreign };
/// A `corrupt` error names the dataset unless its elements, `element_bytes` each, can be read without surprise, which is checked before anything is
/// allocated: no virtual or external storage, no filters but deflate, fletcher32 and, foreign, shuffle; sizes that do not overflow; every chunk
/// allocated; all chunks together as large as what is stored or, with deflate, at most 1,032 times that; no more stored than the file is long.
void require_plain(hid_t dataset, std::size_t element_bytes, Origin origin, const std::string& path);
void extend(hid_t dataset, const Shape& shape, const std::string& path);
/// Reads or writes rows [first, first + count) of the first dimension.
void read_rows(hid_t dataset, hid_t type, std::int64_t first, std::int64_t count, void* data, const std::string& path);
/// Reads or writes a whole dataset.
void read_all(hid_t dataset, hid_t type, void* data, const std::string& path);
void write_all(hid_t dataset, hid_t type, const void* data, const std::string& path);
/// Collective; a rank with count 0 takes part. Gives true when the write really was collective on this rank.
bool write_rows_collectively(hid_t dataset, hid_t type, std::int64_t first, std::int64_t count, const void* data, const std::string& path);

// Attributes.
void write_text_attribute(hid_t object, const char* name, const std::string& text);
void write_integer_attribute(hid_t object, const char* name, std::int64_t value);
void write_integers_attribute(hid_t object, const char* name, const std::vector<std::int64_t>& values);
std::optional<std::string> read_text_attribute(hid_t object, const char* name);
std::optional<std::int64_t> read_integer_attribute(hid_t object, const char* name);
std::optional<std::vector<std::int64_t>> read_integers_attribute(hid_t object, const char* name);

}  // namespace moesweep::store::h5
