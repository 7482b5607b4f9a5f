// See manifest.hpp.
#include "manifest.hpp"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <set>
#include <string_view>
#include <utility>

#include "moesweep/core/error.hpp"
#include "moesweep/core/foreign_json.hpp"
#include "moesweep/core/hash.hpp"
#include "moesweep/core/publish.hpp"
#include "moesweep/data/source.hpp"

namespace moesweep::data {

namespace {

constexpr std::string_view kFormat = "moesweep-tokens";
constexpr int kVersion = 1;

constexpr std::size_t kMostManifestBytes = std::size_t{1} << 24;
constexpr std::size_t kMostNameBytes = 4096;
constexpr std::int64_t kMostSize = std::int64_t{1} << 56;  ///< of tokens and bytes
constexpr std::int64_t kLeastVocabulary = 2, kMostVocabulary = 4194304;

template <class Value, std::size_t N>
Value by_name(const std::array<std::pair<std::string_view, Value>, N>& names, const JsonView& view) {
  const std::string name = view.text();
  std::string all;
  for (const auto& [known, value] : names) {
    if (known == name) return value;
    all += (all.empty() ? "" : ", ") + std::string(known);
  }
  view.refuse("one of " + all);
}

constexpr std::array<std::pair<std::string_view, Encoding>, 3> kEncodings{
    {{"raw", Encoding::raw}, {"npy", Encoding::npy}, {"megatron", Encoding::megatron}}};
constexpr std::array<std::pair<std::string_view, TokenType>, 6> kTypes{{{"u8", TokenType::u8},
                                                                        {"u16", TokenType::u16},
                                                                        {"i16", TokenType::i16},
                                                                        {"u32", TokenType::u32},
                                                                        {"i32", TokenType::i32},
                                                                        {"i64", TokenType::i64}}};

std::string sha256_in(const JsonView& view) {
  constexpr std::size_t kDigits = 64;
  auto text = view.text();
  if (text.size() != kDigits || text.find_first_not_of("0123456789abcdef") != std::string::npos) view.refuse("64 hexadecimal digits, 0-9 and a-f");
  return text;
}

/// A file's name below the store, or an absolute one where that is allowed.
std::string file_name_in(const JsonView& view, bool may_be_absolute) {
  auto name = view.text(kMostNameBytes);
  const std::filesystem::path path(name);
  const bool climbs = std::ranges::any_of(path, [](const auto& part) { return part == ".."; });
  if (name.find('\0') != std::string::npos || !path.has_filename() || path.filename() == "." || climbs || (path.is_absolute() && !may_be_absolute))
    view.refuse(fmt::format("the name of a file below the store{}, without ..", may_be_absolute ? " or an absolute path" : ""));
  return name;
}

SplitEntry parse_split(const JsonView& view, const std::filesystem::path& store) {
  SplitEntry entry;
  entry.domain = view["domain"].text(kMostNameBytes);
  entry.split = view["split"].text();
  if (entry.split != "train" && entry.split != "validation") view["split"].refuse("train or validation");
  entry.encoding = by_name(kEncodings, view["encoding"]);
  entry.type = by_name(kTypes, view["dtype"]);
  entry.name = file_name_in(view["file"], entry.encoding != Encoding::raw);
  entry.file = store / entry.name;  // an absolute path stays as it is
  entry.offset_bytes = view["offset_bytes"].integer(0, kMostSize);
  entry.first = view["first"].integer(0, kMostSize);
  entry.tokens = view["tokens"].integer(0, kMostSize);
  if (const auto bytes = view.find("text_bytes")) entry.text_bytes = bytes->integer(0, kMostSize);
  entry.sha256 = sha256_in(view["sha256"]);
  return entry;
}

/// What differs between the config and the manifest, one phrase each.
std::vector<std::string> differences(const DataConfig& config, const Manifest& manifest) {
  std::vector<std::string> found;
  const auto differ = [&found](const char* key, const std::string& wanted, const std::string& there) {
    found.push_back(fmt::format("data.{} is {}, the store has {}", key, wanted, there));
  };
  if (config.domains != manifest.domains)
    differ("domains", fmt::format("[{}]", fmt::join(config.domains, ", ")), fmt::format("[{}]", fmt::join(manifest.domains, ", ")));
  if (!config.sources.empty() && config.sources != manifest.sources)
    differ("sources", fmt::format("[{}]", fmt::join(config.sources, ", ")), fmt::format("[{}]", fmt::join(manifest.sources, ", ")));
  if (config.tokenizer != manifest.tokenizer) {
    // A tokenizer.json may lie elsewhere than where the store was built: then its content decides.
    const bool is_file = config.tokenizer != "bytes" && config.tokenizer != "bpe" && std::filesystem::is_regular_file(config.tokenizer);
    if (!is_file || sha256_of_file(config.tokenizer) != manifest.tokenizer_sha256) differ("tokenizer", config.tokenizer, manifest.tokenizer);
  }
  if (config.vocabulary != manifest.vocabulary) differ("vocabulary", std::to_string(config.vocabulary), std::to_string(manifest.vocabulary));
  if (config.validation_share != manifest.validation_share)
    differ("validation_share", fmt::format("{}", config.validation_share), fmt::format("{}", manifest.validation_share));
  return found;
}

}  // namespace

std::int64_t size_of(TokenType type) {
  switch (type) {
    case TokenType::u8: return 1;
    case TokenType::u16:
    case TokenType::i16: return 2;
    case TokenType::u32:
    case TokenType::i32: return 4;
    case TokenType::i64: return 8;
  }
  return 0;
}

std::string name_of(TokenType type) {
  for (const auto& [name, value] : kTypes)
    if (value == type) return std::string(name);
  return "";
}

const SplitEntry& Manifest::find(const std::string& domain, const std::string& split) const {
  for (const auto& entry : splits)
    if (entry.domain == domain && entry.split == split) return entry;
  throw Error(ErrorKind::corrupt, fmt::format("has no {} split of domain {}", split, domain), (store / "manifest.json").string(), hint);
}

std::filesystem::path data_folder() {
  if (const char* chosen = std::getenv("MOESWEEP_DATA"); chosen != nullptr && *chosen != '\0') return chosen;
  std::error_code ignored;
  const auto here = std::filesystem::current_path(ignored);
  for (auto folder = here; !folder.empty(); folder = folder.parent_path()) {
    if (std::filesystem::is_regular_file(folder / "CMakeLists.txt", ignored) && std::filesystem::is_directory(folder / "configs", ignored))
      return folder / "build" / "data";
    if (folder == folder.parent_path()) break;
  }
  return here / "build" / "data";
}

std::filesystem::path store_folder(const DataConfig& config) {
  const std::filesystem::path name(config.store);
  const auto normal = name.lexically_normal();
  if (config.store.find('\0') != std::string::npos || (name.is_relative() && !normal.empty() && *normal.begin() == ".."))
    throw Error(ErrorKind::config, "data.store leads out of the folder of the token stores, $MOESWEEP_DATA", config.store,
                "name a folder below it, or give an absolute path");
  return data_folder() / name;
}

std::string build_hint(const DataConfig& config) {
  return fmt::format(
      "make it: moesweep-data build configs/data/{}.yaml (or the file that holds this data section); $MOESWEEP_DATA says where stores lie",
      std::filesystem::path(config.store).filename().string());
}

Manifest parse_manifest(const std::string& text, const std::filesystem::path& store, const std::string& hint) {
  const std::string where = (store / "manifest.json").string();
  try {
    const Json json = parse_json(text, where);
    const JsonView root(json, where);
    if (const auto format = root["format"].text(), version = std::to_string(root["version"].integer(0, kMostSize));
        format != kFormat || version != std::to_string(kVersion))
      throw Error(ErrorKind::data, fmt::format("is {} version {}, this program reads {} version {}", format, version, kFormat, kVersion), where);
    Manifest manifest;
    manifest.store = store;
    manifest.digest = sha256_hex(text);
    manifest.hint = hint;
    manifest.domains = root["domains"].texts();
    if (manifest.domains.empty() || std::set(manifest.domains.begin(), manifest.domains.end()).size() != manifest.domains.size())
      root["domains"].refuse("names of domains, each once");
    manifest.sources = root["sources"].texts();
    if (manifest.sources.size() != manifest.domains.size()) root["sources"].refuse(fmt::format("{} texts, one per domain", manifest.domains.size()));
    const JsonView tokenizer = root["tokenizer"];
    manifest.tokenizer = tokenizer["name"].text(kMostNameBytes);
    const auto digest = tokenizer.find("sha256"), file = tokenizer.find("file");
    if (digest.has_value() != file.has_value()) tokenizer.refuse("both a file and its sha256, or neither");
    if (digest) manifest.tokenizer_sha256 = sha256_in(*digest), manifest.tokenizer_file = file_name_in(*file, false);
    manifest.vocabulary = root["vocabulary"].integer(kLeastVocabulary, kMostVocabulary);
    manifest.validation_share = root["validation_share"].number();
    if (!(manifest.validation_share > 0 && manifest.validation_share <= 0.5)) root["validation_share"].refuse("a number above 0, at most 0.5");
    const std::set<std::string> domains(manifest.domains.begin(), manifest.domains.end());
    std::set<std::pair<std::string, std::string>> seen;
    for (const auto& split : root["splits"].elements()) {
      auto entry = parse_split(split, store);
      if (!domains.contains(entry.domain)) split["domain"].refuse("one of the domains");
      if (!seen.emplace(entry.domain, entry.split).second) split.refuse(fmt::format("the only {} split of {}", entry.split, entry.domain));
      manifest.splits.push_back(std::move(entry));
    }
    return manifest;
  } catch (const Error& error) {
    throw Error(error.kind(), error.message(), error.where(), hint);
  }
}

Manifest read_manifest(const DataConfig& config) {
  const auto store = store_folder(config);
  const auto path = store / "manifest.json";
  std::error_code failure;
  const auto status = std::filesystem::status(path, failure);
  if (!std::filesystem::exists(status) && failure && failure != std::errc::no_such_file_or_directory && failure != std::errc::not_a_directory)
    throw_io("cannot read", path, failure.value());
  if (!std::filesystem::is_regular_file(status)) throw Error(ErrorKind::data, "there is no token store here", store.string(), build_hint(config));
  const auto bytes = std::filesystem::file_size(path, failure);
  if (!failure && bytes > kMostManifestBytes)
    throw Error(ErrorKind::corrupt, fmt::format("has {} bytes, and a manifest has at most {}", bytes, kMostManifestBytes), path.string(),
                build_hint(config));
  Manifest manifest = parse_manifest(read_text(path, kMostManifestBytes), store, build_hint(config));
  if (const auto found = differences(config, manifest); !found.empty())
    throw Error(ErrorKind::data, fmt::format("the token store was made by another config: {}", fmt::join(found, "; ")), manifest.store.string(),
                build_hint(config));
  return manifest;
}

}  // namespace moesweep::data
