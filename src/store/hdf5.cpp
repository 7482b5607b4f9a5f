// See hdf5.hpp.
#include "hdf5.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>

#include "moesweep/core/checked.hpp"
#include "moesweep/core/error.hpp"

namespace moesweep::store::h5 {

namespace {

hid_t checked(hid_t id, const char* call, const std::string& object = {}) {
  if (id < 0) throw Failure(call, object);
  return id;
}

void quiet() {
  static const bool once = [] {
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
    return true;
  }();
  static_cast<void>(once);
}

Handle property_list(hid_t kind) {
  quiet();
  return {checked(H5Pcreate(kind), "H5Pcreate"), H5Pclose};
}

Handle file_access() {
  Handle access = property_list(H5P_FILE_ACCESS);
  checked(H5Pset_libver_bounds(access.get(), H5F_LIBVER_LATEST, H5F_LIBVER_LATEST), "H5Pset_libver_bounds");
  // Files are never read while they are written, and some parallel file systems have no locks.
  checked(H5Pset_file_locking(access.get(), false, true), "H5Pset_file_locking");
  return access;
}

Handle file_creation() {
  Handle creation = property_list(H5P_FILE_CREATE);
  checked(H5Pset_obj_track_times(creation.get(), false), "H5Pset_obj_track_times");
  return creation;
}

/// Where the core driver leaves the finished file when it closes it: the end-of-file address of the superblock bounds it.
struct Capture {
  std::vector<std::byte> bytes;
  bool done = false;
};

constexpr std::size_t kEndOfFileAddress = 28;  // in a superblock of version 2 or 3

H5FD_file_image_callbacks_t capturing(Capture& capture) {
  H5FD_file_image_callbacks_t callbacks{};
  callbacks.image_malloc = [](std::size_t size, H5FD_file_image_op_t, void*) { return std::malloc(size); };
  callbacks.image_memcpy = [](void* to, const void* from, std::size_t size, H5FD_file_image_op_t, void*) { return std::memcpy(to, from, size); };
  callbacks.image_realloc = [](void* old, std::size_t size, H5FD_file_image_op_t, void*) { return std::realloc(old, size); };
  callbacks.image_free = [](void* buffer, H5FD_file_image_op_t op, void* user) -> herr_t {
    auto& target = *static_cast<Capture*>(user);
    herr_t status = 0;
    if (op == H5FD_FILE_IMAGE_OP_FILE_CLOSE) {
      std::uint64_t end = 0;
      std::memcpy(&end, static_cast<const std::byte*>(buffer) + kEndOfFileAddress, sizeof end);
      try {
        const auto* first = static_cast<const std::byte*>(buffer);
        target.bytes.assign(first, first + end);
        target.done = true;
      } catch (const std::bad_alloc&) {
        status = -1;
      }
    }
    std::free(buffer);
    return status;
  };
  callbacks.udata_copy = [](void* user) { return user; };
  callbacks.udata_free = [](void*) -> herr_t { return 0; };
  callbacks.udata = &capture;
  return callbacks;
}

/// Whoever wants memory for the bytes of a file gets those at `first`: HDF5 would copy them three times for each file that it opens.
H5FD_file_image_callbacks_t lending(std::byte* first) {
  H5FD_file_image_callbacks_t callbacks{};
  callbacks.image_malloc = [](std::size_t, H5FD_file_image_op_t, void* user) { return user; };
  callbacks.image_memcpy = [](void* to, const void* from, std::size_t size, H5FD_file_image_op_t, void*) {
    return to == from ? to : std::memcpy(to, from, size);
  };
  callbacks.image_realloc = [](void*, std::size_t, H5FD_file_image_op_t, void*) -> void* { return nullptr; };
  callbacks.image_free = [](void*, H5FD_file_image_op_t, void*) -> herr_t { return 0; };
  callbacks.udata_copy = [](void* user) { return user; };
  callbacks.udata_free = [](void*) -> herr_t { return 0; };
  callbacks.udata = first;
  return callbacks;
}

Handle rows_of(hid_t dataset, std::int64_t first, std::int64_t count, const std::string& path) {
  Handle space(checked(H5Dget_space(dataset), "H5Dget_space", path), H5Sclose);
  if (count == 0) {
    checked(H5Sselect_none(space.get()), "H5Sselect_none", path);
    return space;
  }
  Shape start = shape_of(dataset, path), extent = start;
  std::fill(start.begin(), start.end(), 0);
  start[0] = static_cast<hsize_t>(first);
  extent[0] = static_cast<hsize_t>(count);
  checked(H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, start.data(), nullptr, extent.data(), nullptr), "H5Sselect_hyperslab", path);
  return space;
}

Handle memory_of(hid_t dataset, std::int64_t count, const std::string& path) {
  Shape extent = shape_of(dataset, path);
  extent[0] = static_cast<hsize_t>(count);
  Handle space = dataspace(extent);
  if (count == 0) checked(H5Sselect_none(space.get()), "H5Sselect_none", path);
  return space;
}

}  // namespace

Failure::Failure(const char* call, std::string object) : Failure(call, std::move(object), innermost()) {}

Failure::Failure(const char* call, std::string object, const Cause& cause)
    : std::runtime_error(std::string(call) + ": " + cause.text), object_(std::move(object)), out_of_memory_(cause.out_of_memory) {}

/// The description of the innermost entry of the error stack, and whether any entry is about memory.
Failure::Cause Failure::innermost() {
  Cause cause;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned n, const H5E_error2_t* entry, void* out) -> herr_t {
        auto& found = *static_cast<Cause*>(out);
        if (n == 0 && entry->desc) found.text = entry->desc;
        found.out_of_memory |= entry->maj_num == H5E_RESOURCE && (entry->min_num == H5E_NOSPACE || entry->min_num == H5E_CANTALLOC);
        return 0;
      },
      &cause);
  H5Eclear2(H5E_DEFAULT);
  if (cause.text.empty()) cause.text = "unknown failure";
  return cause;
}

Handle::Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), closer_(other.closer_) {}

Handle& Handle::operator=(Handle&& other) noexcept {
  if (this != &other) {
    close();
    id_ = std::exchange(other.id_, -1);
    closer_ = other.closer_;
  }
  return *this;
}

herr_t Handle::close() noexcept {
  const hid_t id = std::exchange(id_, -1);
  return id >= 0 && closer_ ? closer_(id) : 0;
}

std::vector<std::byte> build_image(const std::function<void(hid_t)>& fill) {
  Capture capture;
  {
    const auto access = file_access();
    auto callbacks = capturing(capture);
    checked(H5Pset_file_image_callbacks(access.get(), &callbacks), "H5Pset_file_image_callbacks");
    checked(H5Pset_fapl_core(access.get(), std::size_t{1} << 20, false), "H5Pset_fapl_core");
    const auto creation = file_creation();
    Handle file(checked(H5Fcreate("image", H5F_ACC_TRUNC, creation.get(), access.get()), "H5Fcreate"), H5Fclose);
    fill(file.get());
    flush(file.get());
    close_file(file);
  }
  if (!capture.done) throw Failure("H5Fclose", "");
  return std::move(capture.bytes);
}

Handle open_image(std::span<const std::byte> bytes) {
  const auto access = file_access();
  checked(H5Pset_fapl_core(access.get(), std::size_t{1} << 20, false), "H5Pset_fapl_core");
  auto* first = const_cast<std::byte*>(bytes.data());  // which a file opened for reading does not change
  auto callbacks = lending(first);
  checked(H5Pset_file_image_callbacks(access.get(), &callbacks), "H5Pset_file_image_callbacks");
  checked(H5Pset_file_image(access.get(), first, bytes.size()), "H5Pset_file_image");
  return {checked(H5Fopen("image", H5F_ACC_RDONLY, access.get()), "H5Fopen"), H5Fclose};
}

Handle open_file(const std::filesystem::path& path) {
  const auto access = file_access();
  return {checked(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()), "H5Fopen"), H5Fclose};
}

Handle open_file_to_change(const std::filesystem::path& path) {
  const auto access = file_access();
  return {checked(H5Fopen(path.c_str(), H5F_ACC_RDWR, access.get()), "H5Fopen"), H5Fclose};
}

Handle create_parallel_file(const std::filesystem::path& path, MPI_Comm comm) {
  const auto access = file_access();
  checked(H5Pset_fapl_mpio(access.get(), comm, MPI_INFO_NULL), "H5Pset_fapl_mpio");
  checked(H5Pset_all_coll_metadata_ops(access.get(), true), "H5Pset_all_coll_metadata_ops");
  checked(H5Pset_coll_metadata_write(access.get(), true), "H5Pset_coll_metadata_write");
  const auto creation = file_creation();
  return {checked(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.get(), access.get()), "H5Fcreate"), H5Fclose};
}

void flush(hid_t file) { checked(H5Fflush(file, H5F_SCOPE_GLOBAL), "H5Fflush"); }

void close_file(Handle& file) { checked(file.close(), "H5Fclose"); }

Handle fixed_text_type(std::size_t width) {
  quiet();
  Handle type(checked(H5Tcopy(H5T_C_S1), "H5Tcopy"), H5Tclose);
  checked(H5Tset_size(type.get(), std::max<std::size_t>(width, 1)), "H5Tset_size");
  checked(H5Tset_strpad(type.get(), H5T_STR_NULLPAD), "H5Tset_strpad");
  checked(H5Tset_cset(type.get(), H5T_CSET_UTF8), "H5Tset_cset");
  return type;
}

Handle bf16_type() {
  quiet();
  Handle type(checked(H5Tcopy(H5T_IEEE_F32LE), "H5Tcopy"), H5Tclose);
  checked(H5Tset_fields(type.get(), 15, 7, 8, 0, 7), "H5Tset_fields");
  checked(H5Tset_precision(type.get(), 16), "H5Tset_precision");
  checked(H5Tset_size(type.get(), 2), "H5Tset_size");
  checked(H5Tset_ebias(type.get(), 127), "H5Tset_ebias");
  return type;
}

Handle dataspace(const Shape& current, const Shape& maximum) {
  quiet();
  return {checked(H5Screate_simple(static_cast<int>(current.size()), current.data(), maximum.empty() ? nullptr : maximum.data()), "H5Screate_simple"),
          H5Sclose};
}

void make_parents(hid_t file, const std::string& path) {
  for (std::size_t end = path.find('/'); end != std::string::npos; end = path.find('/', end + 1)) {
    const auto name = path.substr(0, end);
    if (checked(H5Lexists(file, name.c_str(), H5P_DEFAULT), "H5Lexists", path) > 0) continue;
    const auto creation = property_list(H5P_GROUP_CREATE);
    checked(H5Pset_obj_track_times(creation.get(), false), "H5Pset_obj_track_times");
    const Handle group(checked(H5Gcreate2(file, name.c_str(), H5P_DEFAULT, creation.get(), H5P_DEFAULT), "H5Gcreate2", name), H5Gclose);
  }
}

Handle open_group(hid_t parent, const std::string& name) {
  return {checked(H5Gopen2(parent, name.c_str(), H5P_DEFAULT), "H5Gopen2", name), H5Gclose};
}

std::vector<std::string> links_of(hid_t group, const std::string& path) {
  struct Found {
    std::vector<std::string> names;
    std::string other;  ///< the first link that is not hard
  } found;
  checked(H5Literate(
              group, H5_INDEX_NAME, H5_ITER_NATIVE, nullptr,
              [](hid_t, const char* name, const H5L_info_t* info, void* out) -> herr_t {
                auto& all = *static_cast<Found*>(out);
                if (info->type != H5L_TYPE_HARD) {
                  all.other = name;
                  return 1;
                }
                all.names.emplace_back(name);
                return 0;
              },
              &found),
          "H5Literate", path);
  if (!found.other.empty())
    throw Error(ErrorKind::corrupt, "dataset " + path + found.other + ": it is a link to another place, which is never followed");
  return std::move(found.names);
}

bool is_group(hid_t parent, const std::string& name) {
  const Handle object(checked(H5Oopen(parent, name.c_str(), H5P_DEFAULT), "H5Oopen", name), H5Oclose);
  return H5Iget_type(object.get()) == H5I_GROUP;
}

namespace {

constexpr int kMostGroupDepth = 32;

void visit(hid_t group, const std::string& prefix, int depth, std::vector<std::string>& paths) {
  if (depth > kMostGroupDepth) throw Error(ErrorKind::corrupt, "dataset " + prefix + ": groups inside groups, too deep");
  for (const auto& name : links_of(group, prefix)) {
    const std::string path = prefix + name;
    H5O_info_t info{};
    checked(H5Oget_info_by_name2(group, name.c_str(), &info, H5O_INFO_BASIC, H5P_DEFAULT), "H5Oget_info_by_name2", path);
    if (info.rc != 1) throw Error(ErrorKind::corrupt, "dataset " + path + ": it has " + std::to_string(info.rc) + " names");
    if (info.type == H5O_TYPE_GROUP) visit(open_group(group, name).get(), path + "/", depth + 1, paths);
    else if (info.type == H5O_TYPE_DATASET) paths.push_back(path);
    else throw Error(ErrorKind::corrupt, "dataset " + path + ": it is neither a group nor a dataset");
  }
}

}  // namespace

std::vector<std::string> dataset_paths(hid_t file) {
  std::vector<std::string> paths;
  visit(file, "", 0, paths);
  std::sort(paths.begin(), paths.end());
  return paths;
}

Handle create_dataset(hid_t file, const std::string& path, hid_t type, const Creation& creation) {
  make_parents(file, path);
  const auto properties = property_list(H5P_DATASET_CREATE);
  checked(H5Pset_obj_track_times(properties.get(), false), "H5Pset_obj_track_times", path);
  checked(H5Pset_chunk(properties.get(), static_cast<int>(creation.chunk.size()), creation.chunk.data()), "H5Pset_chunk", path);
  checked(H5Pset_fill_time(properties.get(), H5D_FILL_TIME_NEVER), "H5Pset_fill_time", path);
  if (creation.compress) checked(H5Pset_deflate(properties.get(), 1), "H5Pset_deflate", path);
  checked(H5Pset_fletcher32(properties.get()), "H5Pset_fletcher32", path);
  const auto space = dataspace(creation.shape, creation.maximum);
  return {checked(H5Dcreate2(file, path.c_str(), type, space.get(), H5P_DEFAULT, properties.get(), H5P_DEFAULT), "H5Dcreate2", path), H5Dclose};
}

Handle open_dataset(hid_t file, const std::string& path) { return {checked(H5Dopen2(file, path.c_str(), H5P_DEFAULT), "H5Dopen2", path), H5Dclose}; }

Shape shape_of(hid_t dataset, const std::string& path) {
  const Handle space(checked(H5Dget_space(dataset), "H5Dget_space", path), H5Sclose);
  const auto dimensions = static_cast<int>(checked(H5Sget_simple_extent_ndims(space.get()), "H5Sget_simple_extent_ndims", path));
  Shape shape(static_cast<std::size_t>(dimensions));
  checked(H5Sget_simple_extent_dims(space.get(), shape.data(), nullptr), "H5Sget_simple_extent_dims", path);
  return shape;
}

Handle type_of(hid_t dataset, const std::string& path) { return {checked(H5Dget_type(dataset), "H5Dget_type", path), H5Tclose}; }

namespace {

/// The most that deflate can make of a byte.
constexpr std::int64_t kMostInflation = 1032;

/// Throws the `corrupt` error about a dataset.
[[noreturn]] void refuse(const std::string& path, const std::string& what) { throw Error(ErrorKind::corrupt, "dataset " + path + ": " + what); }

struct Filters {
  bool deflate = false, checksum = false;
};

Filters filters_of(hid_t properties, Origin origin, const std::string& path) {
  Filters found;
  const auto count = checked(H5Pget_nfilters(properties), "H5Pget_nfilters", path);
  for (hid_t i = 0; i < count; ++i) {
    unsigned flags = 0, config = 0;
    std::size_t values = 0;
    const H5Z_filter_t filter = H5Pget_filter2(properties, static_cast<unsigned>(i), &flags, &values, nullptr, 0, nullptr, &config);
    if (filter == H5Z_FILTER_DEFLATE && !found.deflate) found.deflate = true;
    else if (filter == H5Z_FILTER_FLETCHER32 && !found.checksum) found.checksum = true;
    else if (filter != H5Z_FILTER_SHUFFLE || origin == Origin::ours) refuse(path, "filter " + std::to_string(filter) + " is not read");
  }
  return found;
}

std::int64_t as_size(hsize_t size, const std::string& path) {
  if (size > static_cast<hsize_t>(std::numeric_limits<std::int64_t>::max())) refuse(path, "a size is too large");
  return static_cast<std::int64_t>(size);
}

}  // namespace

void require_plain(hid_t dataset, std::size_t element_bytes, Origin origin, const std::string& path) {
  const Handle properties(checked(H5Dget_create_plist(dataset), "H5Dget_create_plist", path), H5Pclose);
  const H5D_layout_t layout = H5Pget_layout(properties.get());
  if (layout == H5D_VIRTUAL) refuse(path, "it is virtual: its content lies in other files");
  if (layout == H5D_CONTIGUOUS && H5Pget_external_count(properties.get()) != 0) refuse(path, "its content lies in other files");
  if (origin == Origin::ours && layout != H5D_CHUNKED) refuse(path, "it has no checksum");
  const Filters filters = filters_of(properties.get(), origin, path);
  if (origin == Origin::ours && !filters.checksum) refuse(path, "it has no checksum");

  const Handle file(checked(H5Iget_file_id(dataset), "H5Iget_file_id", path), H5Fclose);
  hsize_t file_bytes = 0;
  checked(H5Fget_filesize(file.get(), &file_bytes), "H5Fget_filesize", path);
  const Shape extent = shape_of(dataset, path);
  std::vector<std::int64_t> shape;
  for (const auto dimension : extent) shape.push_back(as_size(dimension, path));
  try {
    const std::int64_t bytes = checked_product(checked_product(shape), static_cast<std::int64_t>(element_bytes));
    const std::int64_t stored = as_size(H5Dget_storage_size(dataset), path), length = as_size(file_bytes, path);
    if (stored > length) refuse(path, "it says to store " + std::to_string(stored) + " bytes, more than the file has");
    if (layout == H5D_CONTIGUOUS && bytes > 0) {
      const haddr_t first = H5Dget_offset(dataset);
      H5Eclear2(H5E_DEFAULT);
      if (first == HADDR_UNDEF || checked_sum(as_size(first, path), bytes) > length) refuse(path, "its content is not in the file");
    }
    if (layout != H5D_CHUNKED) {
      if (bytes > stored) refuse(path, "its shape says more than what is stored");
      return;
    }
    Shape chunk(extent.size());
    if (H5Pget_chunk(properties.get(), static_cast<int>(chunk.size()), chunk.data()) != static_cast<int>(chunk.size()))
      refuse(path, "its chunks do not fit its shape");
    std::int64_t chunks = 1, chunk_bytes = static_cast<std::int64_t>(element_bytes);
    for (std::size_t i = 0; i < chunk.size(); ++i) {
      const std::int64_t width = as_size(chunk[i], path);
      if (width < 1) refuse(path, "its chunks are empty");
      chunk_bytes = checked_product(chunk_bytes, width);
      chunks = checked_product(chunks, shape[i] / width + (shape[i] % width == 0 ? 0 : 1));
    }
    hsize_t allocated = 0;
    const Handle space(checked(H5Dget_space(dataset), "H5Dget_space", path), H5Sclose);
    checked(H5Dget_num_chunks(dataset, space.get(), &allocated), "H5Dget_num_chunks", path);
    if (as_size(allocated, path) != chunks) refuse(path, "of its " + std::to_string(chunks) + " chunks " + std::to_string(allocated) + " are there");
    if (checked_product(chunks, chunk_bytes) > checked_product(stored, filters.deflate ? kMostInflation : 1))
      refuse(path, "its shape says more than what is stored");
  } catch (const Error& error) {
    if (error.message().starts_with("dataset ")) throw;
    refuse(path, error.message());
  }
}

void extend(hid_t dataset, const Shape& shape, const std::string& path) { checked(H5Dset_extent(dataset, shape.data()), "H5Dset_extent", path); }

void read_rows(hid_t dataset, hid_t type, std::int64_t first, std::int64_t count, void* data, const std::string& path) {
  if (count == 0) return;
  const auto in_file = rows_of(dataset, first, count, path);
  const auto in_memory = memory_of(dataset, count, path);
  checked(H5Dread(dataset, type, in_memory.get(), in_file.get(), H5P_DEFAULT, data), "H5Dread", path);
}

void read_all(hid_t dataset, hid_t type, void* data, const std::string& path) {
  checked(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data), "H5Dread", path);
}

void write_all(hid_t dataset, hid_t type, const void* data, const std::string& path) {
  checked(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data), "H5Dwrite", path);
}

bool write_rows_collectively(hid_t dataset, hid_t type, std::int64_t first, std::int64_t count, const void* data, const std::string& path) {
  const auto transfer = property_list(H5P_DATASET_XFER);
  checked(H5Pset_dxpl_mpio(transfer.get(), H5FD_MPIO_COLLECTIVE), "H5Pset_dxpl_mpio", path);
  const auto in_file = rows_of(dataset, first, count, path);
  const auto in_memory = memory_of(dataset, count, path);
  const std::byte nothing{};
  checked(H5Dwrite(dataset, type, in_memory.get(), in_file.get(), transfer.get(), count == 0 ? &nothing : data), "H5Dwrite", path);
  std::uint32_t local = 0, global = 0;
  checked(H5Pget_mpio_no_collective_cause(transfer.get(), &local, &global), "H5Pget_mpio_no_collective_cause", path);
  return local == H5D_MPIO_COLLECTIVE && global == H5D_MPIO_COLLECTIVE;
}

namespace {
void write_attribute(hid_t object, const char* name, hid_t type, hid_t space, const void* data) {
  const Handle attribute(checked(H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT), "H5Acreate2", name), H5Aclose);
  checked(H5Awrite(attribute.get(), type, data), "H5Awrite", name);
}

/// The attribute and its number of elements; an empty handle when there is none.
std::pair<Handle, std::int64_t> find_attribute(hid_t object, const char* name) {
  if (checked(H5Aexists(object, name), "H5Aexists", name) == 0) return {};
  Handle attribute(checked(H5Aopen(object, name, H5P_DEFAULT), "H5Aopen", name), H5Aclose);
  const Handle space(checked(H5Aget_space(attribute.get()), "H5Aget_space", name), H5Sclose);
  const auto elements = H5Sget_simple_extent_npoints(space.get());
  checked(static_cast<hid_t>(elements), "H5Sget_simple_extent_npoints", name);
  return {std::move(attribute), elements};
}
}  // namespace

void write_text_attribute(hid_t object, const char* name, const std::string& text) {
  const auto type = fixed_text_type(text.size());
  const Handle space(checked(H5Screate(H5S_SCALAR), "H5Screate", name), H5Sclose);
  write_attribute(object, name, type.get(), space.get(), text.c_str());
}

void write_integer_attribute(hid_t object, const char* name, std::int64_t value) {
  const Handle space(checked(H5Screate(H5S_SCALAR), "H5Screate", name), H5Sclose);
  write_attribute(object, name, H5T_NATIVE_INT64, space.get(), &value);
}

void write_integers_attribute(hid_t object, const char* name, const std::vector<std::int64_t>& values) {
  const auto space = dataspace({static_cast<hsize_t>(values.size())});
  write_attribute(object, name, H5T_NATIVE_INT64, space.get(), values.data());
}

std::optional<std::string> read_text_attribute(hid_t object, const char* name) {
  const auto [attribute, elements] = find_attribute(object, name);
  if (!attribute || elements != 1) return {};
  const Handle type(checked(H5Aget_type(attribute.get()), "H5Aget_type", name), H5Tclose);
  if (H5Tget_class(type.get()) != H5T_STRING || H5Tis_variable_str(type.get()) > 0) return {};
  constexpr std::size_t kMostAttributeBytes = std::size_t{1} << 16;
  const std::size_t width = H5Tget_size(type.get());
  if (width > kMostAttributeBytes) throw Error(ErrorKind::corrupt, std::string("attribute ") + name + ": it is too long");
  std::string text(width, '\0');
  checked(H5Aread(attribute.get(), type.get(), text.data()), "H5Aread", name);
  while (!text.empty() && text.back() == '\0') text.pop_back();
  return text;
}

std::optional<std::int64_t> read_integer_attribute(hid_t object, const char* name) {
  const auto values = read_integers_attribute(object, name);
  if (!values || values->size() != 1) return {};
  return values->front();
}

std::optional<std::vector<std::int64_t>> read_integers_attribute(hid_t object, const char* name) {
  const auto [attribute, elements] = find_attribute(object, name);
  if (!attribute || elements > 1024) return {};
  const Handle type(checked(H5Aget_type(attribute.get()), "H5Aget_type", name), H5Tclose);
  if (H5Tget_class(type.get()) != H5T_INTEGER) return {};
  std::vector<std::int64_t> values(static_cast<std::size_t>(elements));
  checked(H5Aread(attribute.get(), H5T_NATIVE_INT64, values.data()), "H5Aread", name);
  return values;
}

}  // namespace moesweep::store::h5
