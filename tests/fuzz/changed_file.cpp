// See changed_file.hpp. Calls of HDF5 that fail are no findings: a step that cannot be done is left out.
#include "changed_file.hpp"

#include <mpi.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "../store/seal.hpp"
#include "moesweep/comm/mpi.hpp"
#include "reading.hpp"
#include "store/file_check.hpp"

namespace moesweep::fuzz {

namespace {

using store::h5::Handle;

/// A step of the program.
struct Step {
  std::uint8_t code = 0, target = 0, a = 0, b = 0, c = 0, d = 0, e = 0, f = 0;
  std::int64_t value = 0;
};
static_assert(sizeof(Step) == kStepBytes);

Handle properties_of(hid_t kind) { return {H5Pcreate(kind), H5Pclose}; }

const std::array<std::int64_t, 20>& numbers() {
  constexpr auto kMost = std::numeric_limits<std::int64_t>::max();
  static const std::array<std::int64_t, 20> values{
      0, 1, -1, 2, 3, 5, 7, 64, 1023, 1 << 20, 1 << 30, 1LL << 31, 1LL << 32, 1LL << 53, 1LL << 61, 1LL << 62, kMost, kMost - 1, -kMost - 1, 100000};
  return values;
}

std::int64_t number(std::uint8_t choice, std::int64_t own) { return choice % 32 < numbers().size() ? numbers()[choice % 32] : own; }

Handle type(std::uint8_t choice, std::int64_t value) {
  const auto copy = [](hid_t known) { return Handle(H5Tcopy(known), H5Tclose); };
  const auto text = [&](std::size_t width) {
    auto result = copy(H5T_C_S1);
    H5Tset_size(result.get(), width);
    return result;
  };
  switch (choice % 26) {
    case 0: return copy(H5T_IEEE_F64LE);
    case 1: return copy(H5T_IEEE_F32LE);
    case 2: return store::h5::bf16_type();
    case 3: return copy(H5T_STD_I64LE);
    case 4: return copy(H5T_STD_I32LE);
    case 5: return copy(H5T_STD_U8LE);
    case 6: return store::h5::fixed_text_type(1);
    case 7: return store::h5::fixed_text_type(8);
    case 8: return store::h5::fixed_text_type(static_cast<std::size_t>(value) % 70000 + 1);
    case 9: return text(5);
    case 10: return text(H5T_VARIABLE);
    case 11: return copy(H5T_IEEE_F64BE);
    case 12: return copy(H5T_STD_I64BE);
    case 13: return copy(H5T_STD_U64LE);
    case 14: return copy(H5T_STD_U16BE);
    case 15: return copy(H5T_STD_I8LE);
    case 16: {
      Handle result(H5Tcreate(H5T_COMPOUND, 16), H5Tclose);
      H5Tinsert(result.get(), "a", 0, H5T_STD_I64LE);
      H5Tinsert(result.get(), "b", 8, H5T_IEEE_F64LE);
      return result;
    }
    case 17: {
      const hsize_t dimension = static_cast<hsize_t>(value) % 9 + 1;
      return {H5Tarray_create2(H5T_STD_I64LE, 1, &dimension), H5Tclose};
    }
    case 18: return {H5Tcreate(H5T_OPAQUE, static_cast<std::size_t>(value) % 100 + 1), H5Tclose};
    case 19: return copy(H5T_STD_REF_OBJ);
    case 20: {
      Handle result(H5Tenum_create(H5T_STD_I8LE), H5Tclose);
      for (const std::int8_t each : {std::int8_t{0}, std::int8_t{1}}) H5Tenum_insert(result.get(), each == 0 ? "FALSE" : "TRUE", &each);
      return result;
    }
    case 21: return copy(H5T_STD_B32LE);
    case 22: return {H5Tvlen_create(H5T_STD_I64LE), H5Tclose};
    case 23: {  // an integer wider than 64 bits
      auto result = copy(H5T_STD_I64LE);
      H5Tset_size(result.get(), 16);
      H5Tset_precision(result.get(), 64 + static_cast<std::size_t>(value) % 65);
      return result;
    }
    case 24: {  // a number of fewer bits than its bytes
      auto result = copy(H5T_STD_I32LE);
      H5Tset_precision(result.get(), static_cast<std::size_t>(value) % 32 + 1);
      return result;
    }
    default: {  // a float of 16 bits in two bytes
      auto result = copy(H5T_IEEE_F32LE);
      H5Tset_fields(result.get(), 15, 10, 5, 0, 10);
      H5Tset_precision(result.get(), 16);
      H5Tset_size(result.get(), 2);
      H5Tset_ebias(result.get(), 15);
      return result;
    }
  }
}

std::vector<hsize_t> shape(std::uint8_t choice, std::int64_t value) {
  const auto own = static_cast<hsize_t>(value);
  constexpr hsize_t kHuge = hsize_t{1} << 62, kLarge = hsize_t{1} << 40;
  switch (choice % 20) {
    case 0: return {own % 6};
    case 1: return {};
    case 2: return {0};
    case 3: return {1};
    case 4: return {3};
    case 5: return {4};
    case 6: return {own % 4, own / 4 % 4};
    case 7: return {own % 3, own / 3 % 3, own / 9 % 5};
    case 8: return {kHuge};
    case 9: return {kLarge, kLarge};
    case 10: return {0, kHuge};
    case 11: return {kHuge, 4};
    case 12: return {own};
    case 13: return {hsize_t{1} << 33, hsize_t{1} << 31};
    case 14: return std::vector<hsize_t>(32, 1);
    case 15: return {1, own % 100000};
    case 16: return {own % 100000};
    case 17: return {std::numeric_limits<hsize_t>::max()};
    case 18: return {3, 0, own};
    default: return {3, 2};
  }
}

Handle space(std::uint8_t choice, std::int64_t value, bool growing) {
  if (choice == 255) return {H5Screate(H5S_NULL), H5Sclose};
  const auto extent = shape(choice, value);
  if (extent.empty()) return {H5Screate(H5S_SCALAR), H5Sclose};
  const std::vector<hsize_t> most(extent.size(), H5S_UNLIMITED);
  return {H5Screate_simple(static_cast<int>(extent.size()), extent.data(), growing ? most.data() : nullptr), H5Sclose};
}

/// The file of the secret, as raw bytes (`external`) or as a dataset `secret` of bytes.
const std::filesystem::path& secret_file(bool external) {
  static const auto files = [] {
    std::array<std::filesystem::path, 2> made{scratch() / "secret.h5", scratch() / "secret.bin"};
    std::string bytes;
    while (bytes.size() < (std::size_t{1} << 16)) bytes += kSecret;
    spill(made[1], bytes);
    const Handle file(H5Fcreate(made[0].c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT), H5Fclose);
    const hsize_t length = bytes.size();
    const Handle extent(H5Screate_simple(1, &length, nullptr), H5Sclose);
    const Handle dataset(H5Dcreate2(file.get(), "secret", H5T_STD_U8LE, extent.get(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), H5Dclose);
    H5Dwrite(dataset.get(), H5T_STD_U8LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data());
    return made;
  }();
  return files[external ? 1 : 0];
}

/// How a dataset is laid out and filtered, by the bytes c, d and f of a step.
Handle creation(const Step& step, hid_t extent) {
  Handle properties = properties_of(H5P_DATASET_CREATE);
  H5Pset_obj_track_times(properties.get(), false);
  const int rank = std::max(H5Sget_simple_extent_ndims(extent), 0);
  std::vector<hsize_t> dimensions(static_cast<std::size_t>(rank));
  H5Sget_simple_extent_dims(extent, dimensions.data(), nullptr);
  enum class Layout { chunked, contiguous, compact, external, virtual_ };
  // Chunked most of the time: the other layouts are refused at once.
  constexpr std::array kLayouts{Layout::chunked,    Layout::chunked, Layout::chunked,  Layout::chunked, Layout::chunked,
                                Layout::contiguous, Layout::compact, Layout::external, Layout::virtual_};
  const Layout layout = kLayouts[step.c % kLayouts.size()];
  if (layout == Layout::contiguous) H5Pset_layout(properties.get(), H5D_CONTIGUOUS);
  if (layout == Layout::compact) H5Pset_layout(properties.get(), H5D_COMPACT);
  if (layout == Layout::external) H5Pset_external(properties.get(), secret_file(true).c_str(), 0, H5F_UNLIMITED);
  if (layout == Layout::virtual_) {
    const Handle source(H5Screate_simple(std::max(rank, 1), rank > 0 ? dimensions.data() : shape(3, 0).data(), nullptr), H5Sclose);
    H5Pset_virtual(properties.get(), extent, secret_file(false).c_str(), "secret", source.get());
  }
  if (layout != Layout::chunked || rank == 0) return properties;
  std::vector<hsize_t> chunk;
  for (const hsize_t dimension : dimensions) {
    switch (step.f % 6) {
      case 0: chunk.push_back(std::clamp<hsize_t>(dimension, 1, 1000)); break;
      case 1: chunk.push_back(std::clamp<hsize_t>(dimension / 64, 1, 1000)); break;
      case 2: chunk.push_back(std::clamp<hsize_t>(dimension / 2, 1, 1000)); break;
      case 3: chunk.push_back(chunk.empty() ? 4096 : std::clamp<hsize_t>(dimension, 1, 64)); break;
      case 4: chunk.push_back(std::clamp<hsize_t>(dimension, 1, 0xffffffff)); break;
      default: chunk.push_back(std::clamp<hsize_t>(static_cast<hsize_t>(step.value), 1, 0xffffffff)); break;
    }
  }
  H5Pset_chunk(properties.get(), rank, chunk.data());
  const unsigned filters = step.d;
  if ((filters & 8) != 0) H5Pset_shuffle(properties.get());
  if ((filters & 16) != 0) H5Pset_nbit(properties.get());
  if ((filters & 32) != 0) H5Pset_scaleoffset(properties.get(), H5Z_SO_INT, H5Z_SO_INT_MINBITS_DEFAULT);
  if ((filters & 4) != 0) H5Pset_deflate(properties.get(), 9);
  if ((filters & 64) != 0) H5Pset_deflate(properties.get(), 1);
  if ((filters & 1) == 0) H5Pset_fletcher32(properties.get());  // without any bit as ours are
  if ((filters & 2) != 0) H5Pset_fill_time(properties.get(), H5D_FILL_TIME_NEVER);
  return properties;
}

/// Bytes to write, none when they are too many.
std::vector<std::byte> content(hid_t dataset, std::uint8_t pattern, std::int64_t value) {
  const Handle extent(H5Dget_space(dataset), H5Sclose), element(H5Dget_type(dataset), H5Tclose);
  const std::size_t width = H5Tget_size(element.get());
  const auto elements = H5Sget_simple_extent_npoints(extent.get());
  constexpr std::int64_t kMostBytes = std::int64_t{1} << 18;
  // HDF5 writes whole chunks, whatever is in them.
  const Handle properties(H5Dget_create_plist(dataset), H5Pclose);
  if (H5Pget_layout(properties.get()) == H5D_CHUNKED) {
    std::array<hsize_t, 32> chunk{};
    const int rank = H5Pget_chunk(properties.get(), static_cast<int>(chunk.size()), chunk.data());
    double bytes = static_cast<double>(width);
    for (int i = 0; i < rank; ++i) bytes *= static_cast<double>(chunk.at(static_cast<std::size_t>(i)));
    constexpr double kMostChunkBytes = 16e6;
    if (bytes > kMostChunkBytes) return {};
  }
  const auto kind = H5Tget_class(element.get());
  if (elements <= 0 || width == 0 || elements > kMostBytes / static_cast<std::int64_t>(width) || kind == H5T_VLEN || kind == H5T_REFERENCE ||
      H5Tis_variable_str(element.get()) > 0)
    return {};
  std::vector<std::byte> bytes(static_cast<std::size_t>(elements) * width);
  for (std::size_t i = 0; i < static_cast<std::size_t>(elements); ++i) {
    std::int64_t each = 0;
    switch (pattern % 7) {
      case 0: break;
      case 1: each = static_cast<std::int64_t>(i); break;
      case 2: each = value; break;
      case 3: each = static_cast<std::int64_t>(static_cast<std::uint64_t>(value) * i); break;
      case 4: each = i == 0 ? 0 : value; break;
      case 5: each = -1; break;
      default: {
        const double as_double = std::sqrt(static_cast<double>(value)) + static_cast<double>(i);
        std::memcpy(&each, &as_double, sizeof each);
      }
    }
    for (std::size_t at = 0; at < width; at += sizeof each) std::memcpy(bytes.data() + i * width + at, &each, std::min(sizeof each, width - at));
  }
  return bytes;
}

/// Texts that take the place of JSON, names and states.
std::string text(std::uint8_t choice, std::int64_t value) {
  const auto repeated = static_cast<std::size_t>(value) % 20000;
  switch (choice % 16) {
    case 0: return "{}";
    case 1: return "";
    case 2: return std::string(repeated, '[');
    case 3: return "{\"a\": \"\xff\xfe\"}";
    case 4: return std::string("{\"a\": 1}\0\0", 10);
    case 5: return "{\"a\": 1e999}";
    case 6: return "{\"a\": " + std::to_string(value) + "}";
    case 7: return "[1, 2";
    case 8: return "\x1b[2J\r\n\xed\xa0\x80";
    case 9: return std::string(repeated * 5, 'x');
    case 10: return "done";
    case 11: return "{\"sha256\": null, \"step\": 100000000000000000, \"a\": [[[{}]]]}";
    case 12: return "../../etc/passwd";
    case 13: {
      std::string deep;
      for (std::size_t i = 0; i < repeated; ++i) deep += "{\"a\":";
      return deep;
    }
    case 14: return "no_better_than_uniform,,x";
    default: return std::string(reinterpret_cast<const char*>(&value), sizeof value);
  }
}

constexpr std::array kAttributes{"unit",   "description", "metric", "shape", "content", "digest",
                                 "format", "version",     "id",     "state", "reason",  "other"};

void set_attribute(hid_t object, const Step& step) {
  const char* name = kAttributes[step.a % kAttributes.size()];
  if (H5Aexists(object, name) > 0) H5Adelete(object, name);
  const auto put = [&](hid_t element, hid_t extent, const void* data) {
    const Handle attribute(H5Acreate2(object, name, element, extent, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
    if (attribute && data != nullptr) H5Awrite(attribute.get(), element, data);
  };
  const Handle one(H5Screate(H5S_SCALAR), H5Sclose);
  const std::int64_t chosen = number(step.d, step.value);
  switch (step.c % 10) {
    case 0: {
      const auto value = text(step.d, step.value);
      put(store::h5::fixed_text_type(value.size()).get(), one.get(), value.c_str());
      break;
    }
    case 1: put(H5T_STD_I64LE, one.get(), &chosen); break;
    case 2: {
      const auto value = static_cast<double>(chosen);
      put(H5T_IEEE_F64LE, one.get(), &value);
      break;
    }
    case 3: {
      std::vector<std::int64_t> values(step.e % 5, chosen);
      const hsize_t length = values.size();
      put(H5T_STD_I64LE, Handle(H5Screate_simple(1, &length, nullptr), H5Sclose).get(), values.data());
      break;
    }
    case 4: {
      const char* value = "of variable length";
      put(type(10, 0).get(), one.get(), &value);
      break;
    }
    case 5: put(H5T_STD_I64LE, Handle(H5Screate(H5S_NULL), H5Sclose).get(), nullptr); break;
    case 6: put(store::h5::fixed_text_type(4).get(), Handle(H5Screate(H5S_NULL), H5Sclose).get(), nullptr); break;
    case 7: {
      const hsize_t length = step.e % 4;
      const std::string value(64, 'f');
      put(store::h5::fixed_text_type(8).get(), Handle(H5Screate_simple(1, &length, nullptr), H5Sclose).get(), value.c_str());
      break;
    }
    case 8: {
      const std::vector<std::int64_t> values(2000, 1);
      const hsize_t length = values.size();
      put(H5T_STD_I64LE, Handle(H5Screate_simple(1, &length, nullptr), H5Sclose).get(), values.data());
      break;
    }
    default: {
      const std::vector<std::byte> value(70000);
      put(type(step.e, step.value).get(), one.get(), value.data());
    }
  }
}

/// Keeps the attributes of a dataset that another takes the place of.
void copy_attributes(hid_t from, hid_t to) {
  for (const char* name : kAttributes) {
    if (H5Aexists(from, name) <= 0 || H5Aexists(to, name) > 0) continue;
    const Handle old(H5Aopen(from, name, H5P_DEFAULT), H5Aclose), element(H5Aget_type(old.get()), H5Tclose),
        extent(H5Aget_space(old.get()), H5Sclose);
    const auto bytes = H5Tget_size(element.get()) * static_cast<std::size_t>(std::max<hssize_t>(H5Sget_simple_extent_npoints(extent.get()), 0));
    if (H5Tis_variable_str(element.get()) > 0 || bytes == 0 || bytes > (std::size_t{1} << 20)) continue;
    std::vector<std::byte> value(bytes);
    const Handle made(H5Acreate2(to, name, element.get(), extent.get(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
    if (H5Aread(old.get(), element.get(), value.data()) >= 0) H5Awrite(made.get(), element.get(), value.data());
  }
}

class Changer {
 public:
  explicit Changer(hid_t file) : file_(file) {
    try {
      names_ = store::h5::dataset_paths(file);
    } catch (const std::exception&) {
    }
    for (const char* name : {"steps/more", "arrays/more/data", "arrays/more/offsets", "arrays/more/shapes", "trials/warnings", "trials/more",
                             "axes/a", "metrics/m", "header/more", "record/more", "trace/token", "parameters/more", "steps", "header", "a/b/c/d"})
      names_.emplace_back(name);
  }

  void run(const Step& step) {
    const std::string& name = names_[step.target % names_.size()];
    const std::string& other = names_[step.b % names_.size()];
    switch (step.code % 20) {
      case 0:
      case 1: replace(name, step, type(step.a, step.value), space(step.b, step.value, step.f >= 128)); break;
      case 2:
      case 3: lay_out_anew(name, step); break;
      case 4:
      case 5:
      case 6: overwrite_element(name, step); break;
      case 7: replace_text(name, step); break;
      case 8: remove(name); break;
      case 9:
      case 10: with_object(step.b % 3 == 0 ? "/" : name, [&](hid_t object) { set_attribute(object, step); }); break;
      case 11: with_object(step.b % 3 == 0 ? "/" : name, [&](hid_t object) { H5Adelete(object, kAttributes[step.a % kAttributes.size()]); }); break;
      case 12:
        remove(other);
        parents(other);
        H5Lcreate_soft(("/" + name).c_str(), file_, other.c_str(), H5P_DEFAULT, H5P_DEFAULT);
        break;
      case 13:
        remove(name);
        parents(name);
        H5Lcreate_external(secret_file(false).c_str(), "/secret", file_, name.c_str(), H5P_DEFAULT, H5P_DEFAULT);
        break;
      case 14:
        remove(other);
        parents(other);
        H5Lcreate_hard(file_, step.c % 4 == 0 ? "/" : name.c_str(), file_, other.c_str(), H5P_DEFAULT, H5P_DEFAULT);
        break;
      case 15: nest(name, step); break;
      case 16: {
        remove(name);
        parents(name);
        const auto committed = type(step.a, step.value);
        H5Tcommit2(file_, name.c_str(), committed.get(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
        break;
      }
      case 17:
        remove(other);
        parents(other);
        H5Lmove(file_, name.c_str(), file_, other.c_str(), H5P_DEFAULT, H5P_DEFAULT);
        break;
      case 18:
        with_object(name, [&](hid_t object) {
          const auto extent = shape(step.a, step.value);
          if (H5Iget_type(object) != H5I_DATASET || extent.empty()) return;
          const Handle old(H5Dget_space(object), H5Sclose);
          const auto elements = H5Sget_simple_extent_npoints(old.get());
          if (H5Sget_simple_extent_ndims(old.get()) != static_cast<int>(extent.size())) return;
          if (elements >= 0 && elements < (1 << 20)) H5Dset_extent(object, extent.data());  // HDF5 looks at each chunk that goes
        });
        break;
      default:
        remove(other);
        parents(other);
        if (!other.starts_with(name + "/")) H5Ocopy(file_, name.c_str(), file_, other.c_str(), H5P_DEFAULT, H5P_DEFAULT);
    }
  }

 private:
  void remove(const std::string& name) {
    if (H5Lexists(file_, name.substr(0, name.find('/')).c_str(), H5P_DEFAULT) > 0) H5Ldelete(file_, name.c_str(), H5P_DEFAULT);
  }
  void parents(const std::string& name) {
    try {
      store::h5::make_parents(file_, name);
    } catch (const std::exception&) {
    }
  }
  template <class Work>
  void with_object(const std::string& name, Work&& work) {
    const Handle object(H5Oopen(file_, name.c_str(), H5P_DEFAULT), H5Oclose);
    if (object) work(object.get());
  }

  /// Puts a dataset in the place of another, which leaves its attributes.
  void replace(const std::string& name, const Step& step, const Handle& element, const Handle& extent, const std::vector<std::byte>& bytes = {}) {
    const Handle old(H5Dopen2(file_, name.c_str(), H5P_DEFAULT), H5Dclose);
    remove(name);
    parents(name);
    const auto properties = creation(step, extent.get());
    const Handle made(H5Dcreate2(file_, name.c_str(), element.get(), extent.get(), H5P_DEFAULT, properties.get(), H5P_DEFAULT), H5Dclose);
    if (!made) return;
    if (old) copy_attributes(old.get(), made.get());
    for (const char* attribute : {"unit", "description"})
      if (H5Aexists(made.get(), attribute) == 0) store::h5::write_text_attribute(made.get(), attribute, "1");
    if (H5Pget_layout(properties.get()) == H5D_VIRTUAL || H5Pget_external_count(properties.get()) > 0) return;
    const auto values = bytes.empty() ? content(made.get(), step.e, step.value) : bytes;
    if (values.empty() || step.e >= 224) return;  // no chunk is there
    if (step.e >= 192) {                          // one chunk alone
      const Handle space_of_it(H5Dget_space(made.get()), H5Sclose);
      const int rank = H5Sget_simple_extent_ndims(space_of_it.get());
      const std::vector<hsize_t> start(static_cast<std::size_t>(rank), 0), count(static_cast<std::size_t>(rank), 1);
      const Handle memory(H5Screate(H5S_SCALAR), H5Sclose);
      if (rank > 0 && H5Sselect_hyperslab(space_of_it.get(), H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr) >= 0)
        H5Dwrite(made.get(), element.get(), memory.get(), space_of_it.get(), H5P_DEFAULT, values.data());
      return;
    }
    H5Dwrite(made.get(), element.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
  }

  /// The same content in another layout, by other chunks and filters, or with another shape of as many elements.
  void lay_out_anew(const std::string& name, const Step& step) {
    std::vector<std::byte> bytes;
    Handle element, extent;
    {
      const Handle old(H5Dopen2(file_, name.c_str(), H5P_DEFAULT), H5Dclose);
      if (!old) return;
      bytes = content(old.get(), 0, 0);
      element = Handle(H5Dget_type(old.get()), H5Tclose);
      extent = Handle(H5Dget_space(old.get()), H5Sclose);
      if (!bytes.empty() && H5Dread(old.get(), element.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()) < 0) return;
      const auto elements = H5Sget_simple_extent_npoints(extent.get());
      if (step.a % 4 == 1) extent = Handle(H5Screate_simple(2, std::array{hsize_t{1}, static_cast<hsize_t>(elements)}.data(), nullptr), H5Sclose);
      if (step.a % 4 == 2) extent = Handle(H5Screate_simple(2, std::array{static_cast<hsize_t>(elements), hsize_t{1}}.data(), nullptr), H5Sclose);
      if (step.a % 4 == 3) extent = Handle(H5Screate_simple(1, std::array{static_cast<hsize_t>(elements)}.data(), nullptr), H5Sclose);
    }
    replace(name, step, element, extent, bytes);
  }

  void overwrite_element(const std::string& name, const Step& step) {
    const Handle dataset(H5Dopen2(file_, name.c_str(), H5P_DEFAULT), H5Dclose);
    if (!dataset) return;
    auto bytes = content(dataset.get(), 0, 0);
    const Handle element(H5Dget_type(dataset.get()), H5Tclose);
    const Handle properties(H5Dget_create_plist(dataset.get()), H5Pclose);
    if (H5Pget_layout(properties.get()) == H5D_VIRTUAL || H5Pget_external_count(properties.get()) > 0) return;  // it would change the secret
    if (bytes.empty() || H5Dread(dataset.get(), element.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()) < 0) return;
    const std::size_t width = H5Tget_size(element.get()), elements = bytes.size() / width;
    const std::size_t place = (step.a % 8 == 7 ? elements - 1 : static_cast<std::size_t>(step.a) + 256 * static_cast<std::size_t>(step.b)) % elements;
    std::int64_t value = number(step.c, step.value);
    if (step.d % 4 == 1) {  // a number of the floats that are none
      const double special = step.value % 2 == 0 ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
      const auto narrow = static_cast<float>(special);
      if (width == sizeof narrow) std::memcpy(&value, &narrow, sizeof narrow);
      else std::memcpy(&value, &special, sizeof special);
    }
    if (step.d % 4 == 2) {  // adds to what is there
      std::int64_t old = 0;
      std::memcpy(&old, bytes.data() + place * width, std::min(width, sizeof old));
      value = static_cast<std::int64_t>(static_cast<std::uint64_t>(old) + static_cast<std::uint64_t>(value));
    }
    std::memcpy(bytes.data() + place * width, &value, std::min(width, sizeof value));
    H5Dwrite(dataset.get(), element.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data());
  }

  void replace_text(const std::string& name, const Step& step) {
    const auto words = text(step.a, step.value);
    const auto view = std::as_bytes(std::span(words));
    const std::vector<std::byte> bytes(view.begin(), view.end());
    const hsize_t length = bytes.size();
    const Handle extent(H5Screate_simple(1, &length, nullptr), H5Sclose);
    Step as_ours = step;
    as_ours.c = as_ours.d = as_ours.e = as_ours.f = 0;
    replace(name, as_ours, type(5, 0), extent, bytes);
  }

  /// Groups inside groups; the last may hold the first.
  void nest(const std::string& name, const Step& step) {
    remove(name);
    std::string path = name;
    for (int i = 0; i < step.a % 40; ++i) path += "/g";
    parents(path + "/end");
    if (step.c % 2 == 1) H5Lcreate_hard(file_, name.c_str(), file_, (path + "/again").c_str(), H5P_DEFAULT, H5P_DEFAULT);
  }

  hid_t file_;
  std::vector<std::string> names_;
};

store::Array array(std::string path, DType type, std::vector<std::int64_t> extent, int seed, bool metric) {
  store::Array made{std::move(path), type, std::move(extent), {}, "1", "numbers", metric};
  made.bytes.resize(static_cast<std::size_t>(made.elements()) * size_of(type));
  for (std::size_t i = 0; i * size_of(type) < made.bytes.size(); ++i) {
    const double real = 0.5 * static_cast<double>(i) + seed;
    const auto narrow = static_cast<float>(real);
    const auto whole = static_cast<std::int64_t>(i) + seed;
    const void* from = type == DType::f64 ? static_cast<const void*>(&real) : type == DType::f32 ? static_cast<const void*>(&narrow) : &whole;
    std::memcpy(made.bytes.data() + i * size_of(type), from, size_of(type));
  }
  return made;
}

}  // namespace

store::TrialRecord sample_trial(int index) {
  store::TrialRecord record;
  record.id = "00000000000000a" + std::to_string(index);
  record.state = index % 2 == 0 ? "done" : "diverged";
  record.reason = index % 2 == 0 ? "" : "the loss is NaN at step 7";
  record.config = "{\"seed\": " + std::to_string(index) + "}";
  record.provenance = "{\"host\": \"node\"}";
  record.arrays.push_back(array("steps/loss", DType::f64, {5}, index, false));
  record.arrays.push_back(array("steps/step", DType::i64, {5}, 1, false));
  record.arrays.push_back(array("evaluations/purity", DType::f32, {2, 1 + index}, index, true));
  record.arrays.push_back(array("evaluations/counts", DType::i64, {2, 1, 3}, 3, false));
  if (index % 2 == 1) record.arrays.push_back(array("steps/empty", DType::i32, {0, 3}, 5, false));
  return record;
}

void begin() {
  static const bool once = [] {
    ::setenv("OMPI_MCA_ess_singleton_isolated", "1", 0);
    static_cast<void>(new comm::Environment);  // until the end of the process
    static_cast<void>(new store::WithoutChild);
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
    return true;
  }();
  static_cast<void>(once);
}

std::int64_t open_identifiers() { return H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_FILE | H5F_OBJ_DATASET | H5F_OBJ_GROUP | H5F_OBJ_ATTR); }

void close_identifiers() {
  std::vector<hid_t> open(static_cast<std::size_t>(std::max<std::int64_t>(open_identifiers(), 0)));
  const auto count =
      open.empty() ? 0 : H5Fget_obj_ids(H5F_OBJ_ALL, H5F_OBJ_FILE | H5F_OBJ_DATASET | H5F_OBJ_GROUP | H5F_OBJ_ATTR, open.size(), open.data());
  // The files last: those over MPI wait for nobody, there is one rank.
  for (const bool files : {false, true})
    for (std::size_t i = 0; i < static_cast<std::size_t>(std::max<ssize_t>(count, 0)); ++i)
      if (H5Iis_valid(open[i]) > 0 && (H5Iget_type(open[i]) == H5I_FILE) == files) H5Idec_ref(open[i]);
}

void require_no_secret(std::span<const std::byte> bytes, const std::string& where) {
  const auto* first = reinterpret_cast<const char*>(bytes.data());
  require(std::string_view(first, bytes.size()).find(kSecret) == std::string_view::npos, where + " shows the content of another file");
}

void require_no_secret(const store::TrialRecord& record) {
  for (const std::string* text : {&record.id, &record.state, &record.reason, &record.config, &record.provenance})
    require_no_secret(std::as_bytes(std::span(*text)), "a text");
  for (const auto& each : record.arrays) require_no_secret(each.bytes, each.path);
}

Changed write_changed(const std::filesystem::path& path, const std::vector<std::string>& bases, std::span<const std::uint8_t> program) {
  Changed changed;
  const std::uint8_t which = program.empty() ? 0 : program[0], end = program.size() < 2 ? 0 : program[1];
  changed.base = which % bases.size();
  changed.choice = (end & 4) != 0;
  spill(path, bases[changed.base]);
  std::vector<Step> steps;
  for (std::size_t at = kHeadBytes; at + kStepBytes <= program.size() && steps.size() < kMostSteps; at += kStepBytes) {
    Step& step = steps.emplace_back();
    std::memcpy(&step, program.data() + at, kStepBytes);
    changed.number = static_cast<std::uint64_t>(step.value);
  }
  changed.as_it_was = steps.empty();
  if (!steps.empty()) {
    const auto work = [&](hid_t file) {
      Changer changer(file);
      for (const Step& step : steps) changer.run(step);
    };
    auto file = store::h5::open_file_to_change(path);
    work(file.get());
    store::h5::close_file(file);
  }
  // Digests of the new content most of the time: without them most readers stop at once.
  changed.sealed = steps.empty() || end % 4 != 1;
  if (changed.sealed && (!steps.empty() || end % 4 == 2)) {
    try {
      store::seal(path, end % 4 == 2);
    } catch (const std::exception&) {  // what is in the way of a digest is in the way of a reader too
      changed.sealed = false;
    }
  }
  return changed;
}

}  // namespace moesweep::fuzz
