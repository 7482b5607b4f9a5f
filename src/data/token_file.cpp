// See token_file.hpp.
#include "token_file.hpp"

#include <fmt/core.h>

#include <charconv>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "moesweep/core/error.hpp"

namespace moesweep::data {

namespace {

template <class T>
T read_at(std::span<const std::byte> bytes, std::size_t offset) {
  T value{};
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

[[noreturn]] void fail(const std::filesystem::path& file, const std::string& what) {
  throw Error(ErrorKind::corrupt, what, file.string(), "build the store again: moesweep-data build CONFIG --force");
}

struct Layout {
  std::int64_t offset_bytes = 0;
  std::int64_t tokens = 0;
  std::string type;
};

/// NumPy format 1, 2 or 3: magic, version, header length, and a Python dict such as {'descr': '<u2', 'fortran_order': False, 'shape': (9,), }.
Layout read_npy_header(std::span<const std::byte> bytes, const std::filesystem::path& file) {
  constexpr std::string_view magic = "\x93NUMPY";
  if (bytes.size() < 12 || std::memcmp(bytes.data(), magic.data(), magic.size()) != 0) fail(file, "is no .npy file");
  const bool narrow = std::to_integer<int>(bytes[6]) == 1;
  const std::size_t start = narrow ? 10 : 12;
  const std::size_t length = narrow ? read_at<std::uint16_t>(bytes, 8) : read_at<std::uint32_t>(bytes, 8);
  if (bytes.size() < start + length) fail(file, "is cut short inside its .npy header");
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + start, length);
  const auto after = [&](std::string_view key, std::string_view opening) {
    const auto at = header.find(key);
    const auto from = at == std::string_view::npos ? at : header.find(opening, at + key.size());
    if (from == std::string_view::npos) fail(file, fmt::format("has an .npy header without {}", key));
    return header.substr(from + opening.size());
  };
  const auto described = after("'descr'", "'");
  const auto kind = described.substr(0, described.find('\''));
  const auto shape = after("'shape'", "(");
  Layout layout{.offset_bytes = static_cast<std::int64_t>(start + length), .tokens = 0, .type = {}};
  const auto [end, code] = std::from_chars(shape.data(), shape.data() + shape.size(), layout.tokens);
  if (code != std::errc{} || std::string_view(end, static_cast<std::size_t>(shape.data() + shape.size() - end)).substr(0, 2) != ",)")
    fail(file, "is no one-dimensional .npy array");
  if (kind.size() != 3 || (kind[0] != '<' && kind[0] != '|') || (kind[1] != 'u' && kind[1] != 'i'))
    fail(file, fmt::format("holds {} and not little-endian integers", kind));
  layout.type = kind[1] + std::to_string((kind[2] - '0') * 8);
  return layout;
}

/// Megatron's index beside the .bin: "MMIDIDX\0\0", version 1, element type, numbers of sequences and documents, lengths of sequences, ...
Layout read_megatron_index(const std::filesystem::path& binary) {
  auto path = binary;
  path.replace_extension(".idx");
  const MappedFile index(path);
  const auto bytes = index.bytes();
  constexpr std::string_view magic{"MMIDIDX\0\0", 9};
  if (bytes.size() < 34 || std::memcmp(bytes.data(), magic.data(), magic.size()) != 0) fail(path, "is no Megatron index (MMIDIDX)");
  if (const auto version = read_at<std::uint64_t>(bytes, 9); version != 1) fail(path, fmt::format("is a Megatron index of version {}", version));
  Layout layout;
  switch (const int code = std::to_integer<int>(bytes[17]); code) {
    case 1: layout.type = "u8"; break;
    case 3: layout.type = "i16"; break;
    case 4: layout.type = "i32"; break;
    case 5: layout.type = "i64"; break;
    case 8: layout.type = "u16"; break;
    default: fail(path, fmt::format("names element type {}, which is no integer type that is read", code));
  }
  const auto sequences = read_at<std::uint64_t>(bytes, 18);
  if (sequences > (bytes.size() - 34) / 12) fail(path, "is cut short");
  for (std::size_t i = 0; i < sequences; ++i) layout.tokens += read_at<std::int32_t>(bytes, 34 + 4 * i);
  return layout;
}

}  // namespace

TokenFile::TokenFile(SplitEntry entry, std::int64_t vocabulary) : entry_(std::move(entry)), vocabulary_(vocabulary), file_(entry_.file) {
  const auto there = static_cast<std::int64_t>(file_.bytes().size());
  if (entry_.encoding != Encoding::raw) {
    const auto layout = entry_.encoding == Encoding::npy ? read_npy_header(file_.bytes(), entry_.file) : read_megatron_index(entry_.file);
    if (layout.type != name_of(entry_.type))
      fail(entry_.file, fmt::format("holds {} tokens, the manifest says {}", layout.type, name_of(entry_.type)));
    if (layout.offset_bytes != entry_.offset_bytes)
      fail(entry_.file, fmt::format("begins its tokens at byte {}, the manifest says {}", layout.offset_bytes, entry_.offset_bytes));
    const auto expected = layout.offset_bytes + layout.tokens * size_of(entry_.type);
    if (there != expected) fail(entry_.file, fmt::format("has {} bytes, its header says {}", there, expected));
  }
  const auto needed = entry_.offset_bytes + (entry_.first + entry_.tokens) * size_of(entry_.type);
  if (entry_.encoding == Encoding::raw ? there != needed : there < needed)
    fail(entry_.file, fmt::format("has {} bytes, the manifest says {}", there, needed));
}

void TokenFile::copy(std::int64_t start, std::span<std::int32_t> out) const {
  MOESWEEP_ASSERT(start >= 0 && start + std::ssize(out) <= entry_.tokens, "tokens outside the split");
  const std::byte* from = file_.bytes().data() + entry_.offset_bytes + (entry_.first + start) * size_of(entry_.type);
  const auto copy_as = [&]<class T>(T) {
    std::int64_t bad = -1;
    for (std::size_t i = 0; i < out.size(); ++i) {
      T value{};
      std::memcpy(&value, from + i * sizeof(T), sizeof value);
      const auto wide = static_cast<std::int64_t>(value);
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
