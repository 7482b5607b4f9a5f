// See layout.hpp.
#include "layout.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <numeric>
#include <set>

#include "file_check.hpp"
#include "moesweep/core/checked.hpp"
#include "moesweep/core/json.hpp"
#include "moesweep/core/publish.hpp"

namespace moesweep::store {

std::int64_t Description::elements() const { return checked_product(shape); }

std::size_t Description::row_bytes() const {
  const auto row = shape.empty() ? std::span<const std::int64_t>() : std::span(shape).subspan(1);
  return static_cast<std::size_t>(checked_product(checked_product(row), static_cast<std::int64_t>(type.size())));
}

std::size_t Description::bytes() const { return static_cast<std::size_t>(checked_product(elements(), static_cast<std::int64_t>(type.size()))); }

void throw_memory_ran_out(const std::filesystem::path& path) {
  throw Error(ErrorKind::io, "memory ran out while it was read", path.string(), "nothing is wrong with the file: read it where more memory is free");
}

h5::Handle hdf5_type(const ElementType& type) {
  if (type.text_width > 0) return h5::fixed_text_type(type.text_width);
  const auto copy = [](hid_t native) { return h5::Handle(H5Tcopy(native), H5Tclose); };
  switch (type.number) {
    case DType::f64: return copy(H5T_IEEE_F64LE);
    case DType::f32: return copy(H5T_IEEE_F32LE);
    case DType::bf16: return h5::bf16_type();
    case DType::i64: return copy(H5T_STD_I64LE);
    case DType::i32: return copy(H5T_STD_I32LE);
    case DType::u8: return copy(H5T_STD_U8LE);
  }
  throw Error(ErrorKind::internal, "unknown element type");
}

ElementType element_type(hid_t type, const std::string& path) {
  if (H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) <= 0) return {DType::u8, H5Tget_size(type)};
  for (const DType number : {DType::f64, DType::f32, DType::bf16, DType::i64, DType::i32, DType::u8})
    if (H5Tequal(type, hdf5_type({number, 0}).get()) > 0) return {number, 0};
  throw Error(ErrorKind::corrupt, "dataset " + path + ": its type is none that moesweep writes");
}

std::int64_t chunk_rows(const Description& description, std::size_t target_bytes) {
  const std::size_t row = std::max<std::size_t>(description.row_bytes(), 1);
  std::size_t rows = 1;
  while (rows * 2 * row <= target_bytes) rows *= 2;
  return static_cast<std::int64_t>(rows);
}

h5::Handle create(hid_t file, const Description& description) {
  h5::Creation creation;
  for (const auto dimension : description.shape) creation.shape.push_back(static_cast<hsize_t>(dimension));
  creation.chunk = creation.shape;
  for (auto& dimension : creation.chunk) dimension = std::max<hsize_t>(dimension, 1);
  creation.chunk[0] = std::min(creation.chunk[0], static_cast<hsize_t>(chunk_rows(description, kBlockBytes)));
  auto dataset = h5::create_dataset(file, description.path, hdf5_type(description.type).get(), creation);
  write_attributes(dataset.get(), description);
  return dataset;
}

void write_attributes(hid_t dataset, const Description& description) {
  h5::write_text_attribute(dataset, "unit", description.unit);
  h5::write_text_attribute(dataset, "description", description.description);
  if (description.content) h5::write_text_attribute(dataset, "content", *description.content);
  if (description.metric) h5::write_integer_attribute(dataset, "metric", *description.metric ? 1 : 0);
  if (description.logical && !description.logical->empty()) h5::write_integers_attribute(dataset, "shape", *description.logical);
}

void write_dataset(hid_t file, const Description& description, const void* data) {
  Description whole = description;
  if (!whole.content) whole.content = content_of(block_digests({static_cast<const std::byte*>(data), whole.bytes()}));
  const auto dataset = create(file, whole);
  if (whole.elements() > 0) h5::write_all(dataset.get(), hdf5_type(whole.type).get(), data, whole.path);
}

void write_text(hid_t file, const std::string& path, const std::string& text, const std::string& description) {
  write_dataset(file, {path, {DType::u8, 0}, {static_cast<std::int64_t>(text.size())}, "byte", description, {}, {}}, text.data());
}

Description describe(hid_t file, const std::string& path) { return describe(h5::open_dataset(file, path).get(), path, kOpened); }

Description describe(hid_t dataset, const std::string& path, Opened) {
  Description description;
  description.path = path;
  description.type = element_type(h5::type_of(dataset, path).get(), path);
  for (const auto dimension : h5::shape_of(dataset, path)) description.shape.push_back(static_cast<std::int64_t>(dimension));
  if (description.shape.empty()) throw Error(ErrorKind::corrupt, "dataset " + path + ": it has no dimension");
  h5::require_plain(dataset, description.type.size(), h5::Origin::ours, path);
  description.unit = h5::read_text_attribute(dataset, "unit").value_or("");
  description.description = h5::read_text_attribute(dataset, "description").value_or("");
  if (const auto metric = h5::read_integer_attribute(dataset, "metric")) description.metric = *metric != 0;
  description.logical = h5::read_integers_attribute(dataset, "shape");
  description.content = h5::read_text_attribute(dataset, "content");
  return description;
}

std::vector<Description> describe_all(hid_t file) {
  std::vector<Description> descriptions;
  for (const auto& path : h5::dataset_paths(file)) descriptions.push_back(describe(file, path));
  return descriptions;
}

namespace {
void require_content(const Description& description, const std::string& found) {
  if (description.content && *description.content != found)
    throw Error(ErrorKind::corrupt, "dataset " + description.path + ": its digest does not fit its content");
}
}  // namespace

std::vector<std::byte> read_dataset(hid_t file, const Description& description) {
  std::vector<std::byte> bytes(description.bytes());
  const auto dataset = h5::open_dataset(file, description.path);
  if (!bytes.empty()) h5::read_all(dataset.get(), hdf5_type(description.type).get(), bytes.data(), description.path);
  if (description.content) require_content(description, content_of(block_digests(bytes)));
  return bytes;
}

void check_content(hid_t file, const Description& description) {
  if (description.content) require_content(description, content_of(block_digests(file, description, 0, blocks_of(description))));
}

std::string read_text(hid_t file, const std::string& path) {
  const auto description = describe(file, path);
  if (description.type != ElementType{DType::u8, 0} || description.shape.size() != 1)
    throw Error(ErrorKind::corrupt, "dataset " + path + ": it is not a text");
  const auto bytes = read_dataset(file, description);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::vector<std::string> read_texts(hid_t file, const Description& description) {
  if (description.type.text_width == 0 || description.shape.size() != 1)
    throw Error(ErrorKind::corrupt, "dataset " + description.path + ": it does not hold texts");
  const auto bytes = read_dataset(file, description);
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < static_cast<std::size_t>(description.rows()); ++i) {
    std::string text(reinterpret_cast<const char*>(bytes.data()) + i * description.type.text_width, description.type.text_width);
    while (!text.empty() && text.back() == '\0') text.pop_back();
    texts.push_back(std::move(text));
  }
  return texts;
}

void write_format(hid_t file, const Format& format) {
  h5::write_text_attribute(file, "format", format.name);
  h5::write_integer_attribute(file, "version", format.version);
}

std::string format_of(hid_t file) { return h5::read_text_attribute(file, "format").value_or(""); }

void require_format(hid_t file, const Format& format, const std::filesystem::path& path) {
  const auto name = format_of(file);
  if (name != format.name)
    throw Error(ErrorKind::corrupt, name.empty() ? "not a file of moesweep" : "this is a " + name + " file, not a " + format.name + " file",
                path.string());
  const auto version = h5::read_integer_attribute(file, "version").value_or(0);
  if (version > format.version)
    throw NewerFormat(
        ErrorKind::corrupt,
        name + " version " + std::to_string(version) + " is newer than the version " + std::to_string(format.version) + " that this build reads",
        path.string(), "read it with the moesweep that wrote it, or a newer one");
  if (version < 1) throw Error(ErrorKind::corrupt, "the file says no valid format version", path.string());
}

std::string shortened(const std::string& text, std::size_t bytes) {
  if (text.size() <= bytes) return text;
  std::size_t end = bytes - 4;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end) + " ...";
}

void check_paths(const std::vector<std::string>& paths, const std::string& reserved) {
  const std::set<std::string> all(paths.begin(), paths.end());
  if (all.size() != paths.size()) throw Error(ErrorKind::internal, "two arrays of one name");
  for (const auto& path : all) {
    if (Json(path).dump(-1, ' ', false, Json::error_handler_t::ignore) != Json(path).dump(-1, ' ', false, Json::error_handler_t::replace))
      throw Error(ErrorKind::internal, "the name of an array is not UTF-8");
    const auto bounded = "/" + path + "/";
    if (path.empty() || bounded.find("//") != std::string::npos || bounded.find("/./") != std::string::npos || path.find('\0') != std::string::npos ||
        (!reserved.empty() && path.rfind(reserved, 0) == 0))
      throw Error(ErrorKind::internal, "`" + path + "` cannot be the name of an array");
    for (std::size_t end = path.find('/'); end != std::string::npos; end = path.find('/', end + 1))
      if (all.contains(path.substr(0, end))) throw Error(ErrorKind::internal, "the array `" + path.substr(0, end) + "` is also a folder of arrays");
  }
}

std::int64_t blocks_of(const Description& description) { return static_cast<std::int64_t>((description.bytes() + kBlockBytes - 1) / kBlockBytes); }

std::string block_digests(std::span<const std::byte> bytes) {
  std::string digests;
  for (std::size_t first = 0; first < bytes.size(); first += kBlockBytes)
    digests += Sha256().add(bytes.subspan(first, std::min(kBlockBytes, bytes.size() - first))).hex();
  return digests;
}

std::string block_digests(hid_t file, const Description& description, std::int64_t first, std::int64_t count) {
  if (count == 0) return {};
  const std::size_t row = description.row_bytes();
  const std::size_t total = description.bytes();
  const auto dataset = h5::open_dataset(file, description.path);
  const auto type = hdf5_type(description.type);
  // Rows of up to a block are read block by block, wider ones all at once.
  const std::int64_t blocks_at_once = row <= kBlockBytes ? 4 : count;
  std::string digests;
  std::vector<std::byte> buffer;
  for (std::int64_t block = first; block < first + count; block += blocks_at_once) {
    const std::size_t begin = static_cast<std::size_t>(block) * kBlockBytes;
    const std::size_t end = std::min(total, static_cast<std::size_t>(std::min(block + blocks_at_once, first + count)) * kBlockBytes);
    const std::size_t first_row = begin / row, last_row = (end + row - 1) / row;
    buffer.resize((last_row - first_row) * row);
    h5::read_rows(dataset.get(), type.get(), static_cast<std::int64_t>(first_row), static_cast<std::int64_t>(last_row - first_row), buffer.data(),
                  description.path);
    digests += block_digests(std::span(buffer).subspan(begin - first_row * row, end - begin));
  }
  return digests;
}

std::string content_of(const std::string& blocks) { return sha256_hex(blocks); }

std::map<std::string, std::string> root_attributes(hid_t file) {
  std::map<std::string, std::string> attributes;
  for (const char* name : {"format", "id", "state", "reason"})
    if (auto text = h5::read_text_attribute(file, name)) attributes[name] = *text;
  if (const auto version = h5::read_integer_attribute(file, "version")) attributes["version"] = std::to_string(*version);
  return attributes;
}

std::string digest_of(const std::map<std::string, std::string>& attributes, const std::vector<Description>& descriptions,
                      const std::vector<std::string>& contents) {
  Sha256 hash;
  const auto add = [&hash](const std::string& text) { hash.add(std::to_string(text.size()) + ":").add(text).add(","); };
  const auto join = [](const std::vector<std::int64_t>& values) {
    std::string text;
    for (const auto value : values) text += (text.empty() ? "" : ",") + std::to_string(value);
    return text;
  };
  for (const auto& [name, value] : attributes) {
    add(name);
    add(value);
  }
  for (std::size_t i = 0; i < descriptions.size(); ++i) {
    const auto& d = descriptions[i];
    add(d.path);
    add(d.type.name());
    add(join(d.shape));
    add(d.unit);
    add(d.description);
    add(d.metric ? (*d.metric ? "1" : "0") : "");
    add(d.logical ? join(*d.logical) : "");
    add(contents[i]);
  }
  return hash.hex();
}

void check_digest(hid_t file, const std::vector<Description>& descriptions, const std::filesystem::path& path) {
  const auto told = std::ranges::count_if(descriptions, [](const Description& d) { return d.content.has_value(); });
  std::vector<std::string> contents;
  for (const auto& d : descriptions) {
    if (told != 0 && !d.content) throw Error(ErrorKind::corrupt, "dataset " + d.path + ": it has no attribute content, and others have one");
    contents.push_back(d.content ? *d.content : content_of(block_digests(file, d, 0, blocks_of(d))));
  }
  if (digest_of(root_attributes(file), descriptions, contents) != h5::read_text_attribute(file, "digest"))
    throw Error(ErrorKind::corrupt, "the digest does not fit the content", path.string(), kMakeAgain);
}

namespace {

constexpr std::array<unsigned char, 8> kSignature{0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};

struct Descriptor {
  int file = -1;
  ~Descriptor() {
    if (file >= 0) ::close(file);
  }
};

/// Opens it, with its length. Refuses what is no regular file (`io`), and what is empty or not HDF5 (`corrupt`).
std::size_t open_checked(const std::filesystem::path& path, Descriptor& descriptor) {
  descriptor.file = open_regular(path);
  struct stat status {};
  if (::fstat(descriptor.file, &status) != 0) throw_io("cannot read", path, errno);
  if (status.st_size == 0)
    throw Error(ErrorKind::corrupt, "the file is empty", path.string(),
                "remove it, then make it again: moesweep run (trial.h5), moesweep aggregate (sweep.h5)");
  std::array<unsigned char, 8> head{};
  const ssize_t got = ::pread(descriptor.file, head.data(), head.size(), 0);
  if (got < 0) throw_io("cannot read", path, errno);
  if (got != static_cast<ssize_t>(head.size()) || head != kSignature) throw Error(ErrorKind::corrupt, "not an HDF5 file", path.string());
  return static_cast<std::size_t>(status.st_size);
}

}  // namespace

std::vector<std::byte> load_file(const std::filesystem::path& path) {
  Descriptor descriptor;
  const std::size_t size = open_checked(path, descriptor);
  std::vector<std::byte> bytes;
  try {
    bytes.resize(size);
  } catch (const std::exception&) {  // also a length beyond what a vector can have
    throw_memory_ran_out(path);
  }
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t got = ::read(descriptor.file, bytes.data() + done, bytes.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_io("cannot read", path, errno);
    if (got == 0) throw Error(ErrorKind::corrupt, "the file became shorter while it was read", path.string());
    done += static_cast<std::size_t>(got);
  }
  return bytes;
}

void require_hdf5(const std::filesystem::path& path, h5::Origin origin) {
  {
    Descriptor descriptor;
    open_checked(path, descriptor);
  }
  check_in_child(path, origin);
}

void reserve(const std::filesystem::path& path, const std::filesystem::path& shown, std::int64_t bytes) {
  const Descriptor descriptor{::open(path.c_str(), O_WRONLY | O_NOFOLLOW | O_CLOEXEC)};
  if (descriptor.file < 0) throw_io("cannot write", shown, errno);
  if (bytes > 0 && ::fallocate(descriptor.file, 0, 0, bytes) != 0 && errno != EOPNOTSUPP && errno != ENOSYS) throw_io("cannot write", shown, errno);
}

std::vector<std::string> RecordParts::contents() const {
  std::vector<std::string> all;
  for (const auto part : bytes) all.push_back(content_of(block_digests(part)));
  return all;
}

RecordParts parts_of(const TrialRecord& record, const std::string& prefix) {
  RecordParts parts;
  const auto text = [](const std::string& value) { return std::as_bytes(std::span(value.data(), value.size())); };
  const auto add = [&](Description description, std::span<const std::byte> bytes) {
    description.path = prefix + description.path;
    parts.descriptions.push_back(std::move(description));
    parts.bytes.push_back(bytes);
  };
  add({"header/config", {}, {static_cast<std::int64_t>(record.config.size())}, "byte", "the resolved config, JSON", {}, {}}, text(record.config));
  add({"header/provenance", {}, {static_cast<std::int64_t>(record.provenance.size())}, "byte", "where the trial ran and with what, JSON", {}, {}},
      text(record.provenance));
  std::vector<std::string> paths;
  for (const auto& array : record.arrays) {
    paths.push_back(array.path);
    if (array.shape.empty() || array.bytes.size() != static_cast<std::size_t>(checked_product(array.shape)) * size_of(array.type))
      throw Error(ErrorKind::internal, "the array `" + array.path + "` does not hold what its shape says");
    add({array.path, {array.type, 0}, array.shape, shortened(array.unit, 1000), shortened(array.description, 4000), array.metric, {}}, array.bytes);
  }
  check_paths(paths, "header/");
  std::vector<std::size_t> order(parts.bytes.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](auto a, auto b) { return parts.descriptions[a].path < parts.descriptions[b].path; });
  RecordParts sorted;
  for (const auto i : order) {
    sorted.descriptions.push_back(std::move(parts.descriptions[i]));
    sorted.bytes.push_back(parts.bytes[i]);
  }
  return sorted;
}

}  // namespace moesweep::store
