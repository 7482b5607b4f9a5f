// What the fuzz targets of readers share. A file gives a result or an error of those kinds that its reader names; whatever else happens is a finding
// and ends the process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "../support/scratch.hpp"
#include "moesweep/core/error.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace moesweep::fuzz {

inline void require(bool holds, const std::string& sentence) {
  if (holds) return;
  std::fprintf(stderr, "finding: %s\n", sentence.c_str());
  std::abort();
}

/// Runs `read`; nothing when it gives a result, else the error's message. An error of another kind, without a message, or without a place is a
/// finding, and so is every other exception.
template <class Read>
std::optional<std::string> refusal(Read&& read, std::initializer_list<ErrorKind> kinds = {ErrorKind::corrupt}) {
  try {
    read();
    return {};
  } catch (const Error& error) {
    const std::string said = std::string("an error of kind ") + name_of(error.kind()) + ": " + error.what();
    bool expected = false;
    for (const ErrorKind kind : kinds) expected = expected || kind == error.kind();
    require(expected, said);
    require(!error.message().empty() && !error.where().empty(), said + ": it has no message or no place");
    require(said.size() < 64 * 1024, "an error of more than 64 KiB");
    return error.message();
  }
}

/// A folder of this process, which goes with it. In memory where TMPDIR says so (fuzz.sh).
inline const std::filesystem::path& scratch() {
  static const testing_support::Scratch folder("moesweep-fuzz");
  return folder.path();
}

inline void spill(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << bytes;
  if (!out.flush()) throw std::runtime_error("cannot write " + path.string());
}

inline std::string slurp(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// The parts of an input between lines that hold nothing but %%%%.
inline std::vector<std::string> parts_of(const std::uint8_t* data, std::size_t size) {
  constexpr std::string_view kBetween = "\n%%%%\n";
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  std::vector<std::string> parts;
  for (std::size_t first = 0;;) {
    const std::size_t end = text.find(kBetween, first);
    parts.emplace_back(text.substr(first, end == std::string_view::npos ? end : end - first));
    if (end == std::string_view::npos) return parts;
    first = end + kBetween.size();
  }
}

}  // namespace moesweep::fuzz
