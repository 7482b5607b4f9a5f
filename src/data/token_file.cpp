// See token_file.hpp.
#include "token_file.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "moesweep/core/checked.hpp"
#include "moesweep/core/error.hpp"

namespace moesweep::data {

namespace {

template <class T>
T value_at(std::span<const std::byte> bytes, std::size_t offset) {
  T value{};
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

[[noreturn]] void fail(const std::filesystem::path& file, const std::string& what) {
  throw Error(ErrorKind::corrupt, what, file.string(), "build the store again: moesweep-data build CONFIG --force");
}

/// What `sizes` computes with checked arithmetic; its error is one of that file.
template <class Sizes>
std::int64_t checked_in(const std::filesystem::path& file, Sizes sizes) {
  try {
    return sizes();
  } catch (const Error& error) {
    fail(file, error.message());
  }
}

struct Layout {
  std::int64_t offset_bytes = 0;
  std::int64_t tokens = 0;
  std::string type;
};

/// NumPy format 1, 2 or 3: magic, version, header length, and a Python dict such as {'descr': '<u2', 'fortran_order': False, 'shape': (9,), }.
Layout read_npy_header(const RegularFile& file) {
  constexpr std::string_view magic = "\x93NUMPY";
  std::array<std::byte, 12> start{};
  if (file.bytes() < std::ssize(start)) fail(file.path(), "is no .npy file");
  file.read(0, start);
  if (std::memcmp(start.data(), magic.data(), magic.size()) != 0) fail(file.path(), "is no .npy file");
  const int version = std::to_integer<int>(start[6]);
  if (version < 1 || version > 3) fail(file.path(), fmt::format("is an .npy file of version {}, and versions 1 to 3 are read", version));
  const std::int64_t from = version == 1 ? 10 : 12;
  const std::int64_t length = version == 1 ? value_at<std::uint16_t>(start, 8) : value_at<std::uint32_t>(start, 8);
  constexpr std::int64_t kMostHeader = 65535;  // bytes; a header of one dimension has about 100
  if (length > kMostHeader) fail(file.path(), fmt::format("has an .npy header of {} bytes, and at most {} are read", length, kMostHeader));
  if (file.bytes() < from + length) fail(file.path(), "is cut short inside its .npy header");
  std::string text(static_cast<std::size_t>(length), '\0');
  file.read(from, std::as_writable_bytes(std::span(text)));
  const std::string_view header(text);
  const auto after = [&](std::string_view key, std::string_view opening) {
    const auto at = header.find(key);
    const auto begin = at == std::string_view::npos ? at : header.find(opening, at + key.size());
    if (begin == std::string_view::npos) fail(file.path(), fmt::format("has an .npy header without {}", key));
    return header.substr(begin + opening.size());
  };
  const auto described = after("'descr'", "'");
  const auto kind = described.substr(0, described.find('\''));
  const auto shape = after("'shape'", "(");
  Layout layout{.offset_bytes = from + length, .tokens = 0, .type = {}};
  const auto [end, code] = std::from_chars(shape.data(), shape.data() + shape.size(), layout.tokens);
  if (code != std::errc{} || layout.tokens < 0 ||
      std::string_view(end, static_cast<std::size_t>(shape.data() + shape.size() - end)).substr(0, 2) != ",)")
    fail(file.path(), "is no one-dimensional .npy array");
  if (kind.size() != 3 || (kind[0] != '<' && kind[0] != '|') || (kind[1] != 'u' && kind[1] != 'i'))
    fail(file.path(), fmt::format("holds {} and not little-endian integers", kind.substr(0, 8)));
  layout.type = kind[1] + std::to_string((kind[2] - '0') * 8);
  return layout;
}

/// Megatron's index beside the .bin: "MMIDIDX\0\0", version 1, element type, numbers of sequences S and documents D (34 bytes so far), then S
/// lengths of 4 bytes, S positions and D documents of 8 bytes.
Layout read_megatron_index(const std::filesystem::path& binary) {
  auto path = binary;
  path.replace_extension(".idx");
  const RegularFile index(path);
  constexpr std::string_view magic{"MMIDIDX\0\0", 9};
  std::array<std::byte, 34> start{};
  if (index.bytes() < std::ssize(start)) fail(path, "is no Megatron index (MMIDIDX)");
  index.read(0, start);
  if (std::memcmp(start.data(), magic.data(), magic.size()) != 0) fail(path, "is no Megatron index (MMIDIDX)");
  if (const auto version = value_at<std::uint64_t>(start, 9); version != 1) fail(path, fmt::format("is a Megatron index of version {}", version));
  Layout layout;
  switch (const int code = std::to_integer<int>(start[17]); code) {
    case 1: layout.type = "u8"; break;
    case 3: layout.type = "i16"; break;
    case 4: layout.type = "i32"; break;
    case 5: layout.type = "i64"; break;
    case 8: layout.type = "u16"; break;
    default: fail(path, fmt::format("names element type {}, which is no integer type that is read", code));
  }
  const auto sequences = value_at<std::int64_t>(start, 18), documents = value_at<std::int64_t>(start, 26);
  const auto needed =
      checked_in(path, [&] { return checked_sum(std::ssize(start), checked_sum(checked_product(sequences, 12), checked_product(documents, 8))); });
  if (index.bytes() < needed) fail(path, fmt::format("is cut short: it has {} bytes, its header says {}", index.bytes(), needed));
  constexpr std::int64_t kPart = 16384;  // lengths that are read at once
  std::vector<std::int32_t> lengths(static_cast<std::size_t>(std::min(sequences, kPart)));
  for (std::int64_t first = 0; first < sequences; first += kPart) {
    const auto part = std::span(lengths).first(static_cast<std::size_t>(std::min(sequences - first, kPart)));
    index.read(std::ssize(start) + 4 * first, std::as_writable_bytes(part));
    for (const auto length : part) {
      if (length < 0) fail(path, fmt::format("names a sequence of {} tokens", length));
      layout.tokens = checked_in(path, [&] { return checked_sum(layout.tokens, length); });
    }
  }
  return layout;
}

}  // namespace

TokenFile::TokenFile(SplitEntry entry, std::int64_t vocabulary) : entry_(std::move(entry)), vocabulary_(vocabulary), file_(entry_.file) {
  const std::int64_t there = file_.bytes(), size = size_of(entry_.type);
  const auto end_of = [&](std::int64_t offset_bytes, std::int64_t tokens) {
    return checked_in(entry_.file, [&] { return checked_sum(offset_bytes, checked_product(tokens, size)); });
  };
  if (entry_.encoding != Encoding::raw) {
    const auto layout = entry_.encoding == Encoding::npy ? read_npy_header(file_) : read_megatron_index(entry_.file);
    if (layout.type != name_of(entry_.type))
      fail(entry_.file, fmt::format("holds {} tokens, the manifest says {}", layout.type, name_of(entry_.type)));
    if (layout.offset_bytes != entry_.offset_bytes)
      fail(entry_.file, fmt::format("begins its tokens at byte {}, the manifest says {}", layout.offset_bytes, entry_.offset_bytes));
    const auto expected = end_of(layout.offset_bytes, layout.tokens);
    if (there != expected) fail(entry_.file, fmt::format("has {} bytes, its header says {}", there, expected));
  }
  const auto needed = end_of(entry_.offset_bytes, checked_in(entry_.file, [&] { return checked_sum(entry_.first, entry_.tokens); }));
  if (entry_.encoding == Encoding::raw ? there != needed : there < needed)
    fail(entry_.file, fmt::format("has {} bytes, the manifest says {}", there, needed));
}

void TokenFile::copy(std::int64_t start, std::span<std::int32_t> out) const {
  MOESWEEP_ASSERT(start >= 0 && std::ssize(out) <= entry_.tokens - start, "tokens outside the split");
  const std::int64_t size = size_of(entry_.type);
  const auto length = out.size() * static_cast<std::size_t>(size);
  const auto bytes = std::make_unique_for_overwrite<std::byte[]>(length);
  file_.read(entry_.offset_bytes + (entry_.first + start) * size, {bytes.get(), length});
  const auto copy_as = [&]<class T>(T) {
    std::int64_t bad = -1;
    for (std::size_t i = 0; i < out.size(); ++i) {
      const auto wide = static_cast<std::int64_t>(value_at<T>({bytes.get(), length}, i * sizeof(T)));
      if (wide < 0 || wide >= vocabulary_) bad = static_cast<std::int64_t>(i);
      out[i] = static_cast<std::int32_t>(wide);
    }
    if (bad >= 0)
      fail(entry_.file,
           fmt::format("token {} of the {} split of {} is outside the vocabulary of {}", start + bad, entry_.split, entry_.domain, vocabulary_));
  };
  switch (entry_.type) {
    case TokenType::u8: copy_as(std::uint8_t{}); break;
    case TokenType::u16: copy_as(std::uint16_t{}); break;
    case TokenType::i16: copy_as(std::int16_t{}); break;
    case TokenType::u32: copy_as(std::uint32_t{}); break;
    case TokenType::i32: copy_as(std::int32_t{}); break;
    case TokenType::i64: copy_as(std::int64_t{}); break;
  }
}

}  // namespace moesweep::data
