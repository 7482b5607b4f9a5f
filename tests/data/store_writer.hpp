// Token stores that tests write themselves, in the format of analysis/TOKENS.md.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "moesweep/core/hash.hpp"
#include "moesweep/core/json.hpp"
#include "moesweep/data/source.hpp"

namespace moesweep::data {

/// A folder of its own, made $MOESWEEP_DATA for as long as it lives; beside it one for what is remembered of digests.
class TemporaryData {
 public:
  TemporaryData() {
    auto pattern = (std::filesystem::temp_directory_path() / "moesweep-data-XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
    path_ = folder_ / "data";
    std::filesystem::create_directory(path_);
    ::setenv("MOESWEEP_DATA", path_.c_str(), 1);
    ::setenv("XDG_CACHE_HOME", cache_home().c_str(), 1);
  }
  ~TemporaryData() {
    ::unsetenv("MOESWEEP_DATA");
    ::unsetenv("XDG_CACHE_HOME");
    std::filesystem::remove_all(folder_);
  }
  TemporaryData(const TemporaryData&) = delete;
  TemporaryData& operator=(const TemporaryData&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path cache_home() const { return folder_ / "cache"; }

 private:
  std::filesystem::path folder_, path_;
};

inline void write_bytes(const std::filesystem::path& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

template <class T>
std::string bytes_of(const std::vector<std::int64_t>& values) {
  std::string bytes;
  for (const auto value : values) {
    const T narrow = static_cast<T>(value);
    bytes.append(reinterpret_cast<const char*>(&narrow), sizeof narrow);
  }
  return bytes;
}

/// A store `tiny` of two domains with a vocabulary of 1000: token i of a split is start + i, so that a window tells where it comes from.
struct TinyStore {
  explicit TinyStore(const std::filesystem::path& data) : folder(data / "tiny") {
    config.kind = DataKind::store;
    config.store = "tiny";
    config.domains = {"a", "b"};
    config.sources = {"a.txt", "b.txt"};
    config.tokenizer = "bytes";
    config.vocabulary = 1000;
    config.sequence_length = 4;
    config.validation_share = 0.25;
    std::filesystem::create_directories(folder);
    manifest = {{"format", "moesweep-tokens"},
                {"version", 1},
                {"domains", config.domains},
                {"sources", config.sources},
                {"tokenizer", {{"name", "bytes"}, {"file", nullptr}, {"sha256", nullptr}, {"pieces", 256}, {"end_of_document", 0}}},
                {"vocabulary", 1000},
                {"validation_share", 0.25},
                {"splits", Json::array()}};
    add("a", "train", counting(0, 200));
    add("a", "validation", counting(200, 65));
    add("b", "train", counting(500, 300));
    add("b", "validation", counting(800, 101));
    save();
  }

  static std::vector<std::int64_t> counting(std::int64_t start, std::int64_t count) {
    std::vector<std::int64_t> values;
    for (std::int64_t i = 0; i < count; ++i) values.push_back(start + i);
    return values;
  }

  void add(const std::string& domain, const std::string& split, const std::vector<std::int64_t>& tokens) {
    const std::string file = domain + "." + split + ".u16", bytes = bytes_of<std::uint16_t>(tokens);
    write_bytes(folder / file, bytes);
    manifest["splits"].push_back({{"domain", domain},
                                  {"split", split},
                                  {"file", file},
                                  {"encoding", "raw"},
                                  {"dtype", "u16"},
                                  {"offset_bytes", 0},
                                  {"first", 0},
                                  {"tokens", tokens.size()},
                                  {"documents", 1},
                                  {"text_bytes", 3 * tokens.size()},
                                  {"sha256", sha256_hex(bytes)}});
  }

  Json& split(const std::string& domain, const std::string& name) {
    for (auto& entry : manifest["splits"])
      if (entry["domain"] == domain && entry["split"] == name) return entry;
    std::abort();
  }

  void save() const { write_bytes(folder / "manifest.json", manifest.dump(1)); }

  std::filesystem::path folder;
  DataConfig config;
  Json manifest;
};

}  // namespace moesweep::data
